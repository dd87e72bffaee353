//! What tests, fuzzing and benches need of the encoder's inside.

#[cfg(target_arch = "x86_64")]
use super::kernel::{Avx2, Avx512};
use super::{
    encoder::Encoder,
    engine::{Engine, EngineScratch, ShortTexts},
    kernel::{Kernel, Portable},
};
use crate::{Result, spm::SpmModel, text::Text};

/// The encoder that uses the plain way with any model.
///
/// # Errors
/// [`Error::Model`](crate::Error::Model) for USER_DEFINED pieces that no automaton takes.
pub fn plain_encoder(model: &SpmModel) -> Result<Encoder> {
    Encoder::new_plain(model)
}

/// True unless the model needs the plain encoder.
pub fn uses_engine(encoder: &Encoder) -> bool {
    encoder.engine().is_some()
}

/// The ids of normalised text without USER_DEFINED pieces by every kernel that this processor can run, each with empty
/// caches.
pub fn encode_by_each_kernel(encoder: &Encoder, text: Text<'_>) -> Vec<Vec<u32>> {
    let Some(engine) = encoder.engine() else { return Vec::new() };
    let mut found = by_kernel::<Portable>(engine, text);
    #[cfg(target_arch = "x86_64")]
    {
        if Avx2::is_available() {
            found.extend(by_kernel::<Avx2>(engine, text));
        }
        if Avx512::is_available() {
            found.extend(by_kernel::<Avx512>(engine, text));
        }
    }
    found
}

/// The ids of a text alone, and, if it is short, between others.
fn by_kernel<K: Kernel>(engine: &Engine, text: Text<'_>) -> Vec<Vec<u32>> {
    let mut scratch = EngineScratch::default();
    let mut ids = Vec::new();
    engine.encode_on::<K>(text, false, &mut scratch, &mut engine.sink(true, &mut ids));
    let mut found = vec![ids];
    let mut short = ShortTexts::default();
    if [text, Text::Utf8(""), text, text].into_iter().all(|text| short.push(text)) {
        let (mut ids, mut ends) = (Vec::new(), [0; 4]);
        let sink = &mut engine.sink(true, &mut ids);
        engine.encode_short_on::<K>(&short, false, &mut scratch, sink, &mut ends);
        let mut start = 0;
        for (text, end) in short.as_slice().iter().zip(ends.map(|end| end as usize)) {
            let own = ids.get(start..end).unwrap_or_default().to_vec();
            if text.is_empty() {
                assert!(own.is_empty())
            } else {
                found.push(own)
            }
            start = end;
        }
    }
    found
}
