//! The scores of new pieces: which merges come first.

use std::str::FromStr;

use crate::{Error, Result, spm::SpmModel};

/// How the new pieces are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergePolicy {
    /// As published (arXiv 2304.08177, `merge_tokenizers.py`): score 0 for every new piece. All their merges tie, and
    /// the leftmost comes first.
    Paper,
    /// Above the base's highest score, strictly decreasing in the order of the ids, all of them different as `f32`. Then
    /// no two merges tie, so that engines that number merges instead of comparing scores give the same ids.
    Ordered,
}

impl FromStr for MergePolicy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "paper" => Ok(Self::Paper),
            "ordered" => Ok(Self::Ordered),
            _ => {
                Err(Error::Argument(format!("policy `{name}` is unknown; there are: paper, ordered").into()))
            }
        }
    }
}

/// Whole numbers up to here are different as `f32`.
const WHOLE: f32 = 16_777_216.0;

impl MergePolicy {
    /// Scores of `n` new pieces, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::Model`] if a piece of the base has a score that nothing can be above.
    pub fn scores(self, base: &SpmModel, n: usize) -> Result<Vec<f32>> {
        if self == Self::Paper {
            return Ok(vec![0.0; n]);
        }
        let merged = base.pieces().iter().enumerate().filter(|(_, piece)| piece.kind.matches_text());
        let top = merged.max_by(|a, b| a.1.score.total_cmp(&b.1.score));
        let (id, top) = top.map_or((0, -1.0), |(id, piece)| (id, piece.score));
        let first = top.floor() + n as f32;
        let mut scores = Vec::with_capacity(n);
        if top > -WHOLE && first < WHOLE {
            scores.extend((0..n).map(|at| first - at as f32));
            return Ok(scores);
        }
        let mut score = top;
        for _ in 0..n {
            score = score.next_up();
            scores.push(score);
        }
        if !score.is_finite() {
            let text = &base.pieces()[id].text;
            let reason = format!(
                "piece {id} `{text}` has the score {top}, above which there is no room for {n} pieces; give it a \
                 lower score, or take the policy paper"
            );
            return Err(Error::model(base.origin(), reason));
        }
        scores.reverse();
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spm::{NormalizerOptions, Piece, PieceKind};

    #[test]
    fn ordered_scores_are_above_the_base_and_differ() {
        for top in [-1.0, 0.0, -0.5, 2.75, 1e6, 16_777_210.0, -1e9, -3e38, 1e30, f32::MIN_POSITIVE] {
            let pieces = [("<unk>", 9.0, PieceKind::Unknown), ("ab", top, PieceKind::Normal)];
            let pieces = pieces.map(|(text, score, kind)| Piece { text: text.into(), score, kind });
            let base = SpmModel::from_pieces(&pieces, false, &NormalizerOptions::default(), "b").unwrap();
            let scores = MergePolicy::Ordered.scores(&base, 100).unwrap();
            assert_eq!(scores.len(), 100);
            assert!(scores.is_sorted_by(|a, b| a > b), "{top}: {scores:?}");
            assert!(scores[99] > top && scores[0].is_finite());
        }
    }

    #[test]
    fn nothing_is_above_infinity() {
        for top in [f32::INFINITY, f32::NAN, f32::MAX] {
            let pieces = [("<unk>", 0.0, PieceKind::Unknown), ("ab", top, PieceKind::Normal)];
            let pieces = pieces.map(|(text, score, kind)| Piece { text: text.into(), score, kind });
            let base =
                SpmModel::from_pieces(&pieces, false, &NormalizerOptions::default(), "b.model").unwrap();
            let error = MergePolicy::Ordered.scores(&base, 2).unwrap_err().to_string();
            assert!(error.contains("b.model") && error.contains("piece 1 `ab`"), "{error}");
        }
    }
}
