//! The order of merges: scores as ranks.

/// The ranks of a model's scores: the highest score has rank 0, equal scores share one.
#[derive(Debug)]
pub struct ScoreRanks(Vec<i32>);

impl ScoreRanks {
    /// Ranks these scores.
    pub fn new(scores: impl Iterator<Item = f32>) -> Self {
        let mut distinct: Vec<i32> = scores.map(score_order).collect();
        distinct.sort_unstable_by(|a, b| b.cmp(a));
        distinct.dedup();
        Self(distinct)
    }

    /// The rank of one of them.
    pub fn of(&self, score: f32) -> u32 {
        self.0.partition_point(|&higher| higher > score_order(score)) as u32
    }
}

/// A score as SentencePiece 0.2.3 orders it: -0.0 below 0.0 (IEEE total order).
fn score_order(score: f32) -> i32 {
    let bits = score.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_ordered_totally() {
        let scores = [f32::NEG_INFINITY, -2.5, -1.0, -0.0, 0.0, 1e-20, 3.0, f32::INFINITY];
        assert!(scores.map(score_order).is_sorted_by(|a, b| a < b));
        let ranks = ScoreRanks::new(scores.into_iter().chain(scores));
        assert_eq!(scores.map(|score| ranks.of(score)), [7, 6, 5, 4, 3, 2, 1, 0]);
    }
}
