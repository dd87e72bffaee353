//! Compiles `proto/sentencepiece_model.proto` in pure Rust: protox reads it, buffa writes the types, and
//! no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/sentencepiece_model.proto"], ["proto"])?;
    let path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(&path, descriptors.encode_to_vec())?;
    buffa_build::Config::new()
        .descriptor_set(&path)
        .files(&["sentencepiece_model.proto"])
        .generate_views(false)
        .include_file("proto.rs")
        .compile()?;
    Ok(())
}
