//! Instructions per byte, as callgrind counts them: a number that a busy machine does not change, for CI to compare.
//!
//! `cargo bench -p zhuzi-core --bench instructions` fails where a text takes 3 % more than `benches/instructions.txt`
//! says, `... -- --save` writes that file again. Callgrind emulates a processor with AVX2, so that is what is counted.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench")]

use std::{env, fmt::Write, fs, process::Command};

use zhuzi_core::{Text, Tokenizer, tokenizer::Scratch};

mod sample;

const SAVED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/instructions.txt");
/// How many times the saved count is too much.
const TOO_MUCH: f64 = 1.03;
const TEXTS: [&str; 3] = ["chinese", "english", "digits"];

fn text(name: &str) -> String {
    match name {
        "chinese" => sample::chinese(),
        "english" => sample::english(),
        _ => sample::repeated(" 12 345\n2026", 100_000),
    }
}

/// What is counted: one text, with empty caches.
#[unsafe(no_mangle)]
#[inline(never)]
fn zhuzi_counted(tokenizer: &Tokenizer, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
    tokenizer.encode_into(Text::Utf8(text), scratch, ids);
}

/// Instructions per byte of a text, counted in a process of its own.
fn count(name: &str) -> Option<f64> {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=zhuzi_counted", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().unwrap())
        .args(["--once", name])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&run.stderr);
    let counted = said.lines().find_map(|line| line.split_once("Collected :"));
    let Some((_, counted)) = counted else { panic!("callgrind said nothing of a count:\n{said}") };
    let counted: f64 = counted.trim().parse().unwrap();
    Some(counted / text(name).len() as f64)
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--once") {
        let (tokenizer, text) = (sample::tokenizer(), text(&arguments[at + 1]));
        let (mut scratch, mut ids) = (Scratch::default(), Vec::with_capacity(2 * text.len()));
        zhuzi_counted(&tokenizer, &text, &mut scratch, &mut ids);
        assert!(ids == tokenizer.encode(&text));
        return;
    }
    let saved = fs::read_to_string(SAVED).unwrap_or_default();
    let (mut found, mut worse) = (String::new(), Vec::new());
    for name in TEXTS {
        let Some(now) = count(name) else {
            return println!("valgrind is not installed: nothing was counted");
        };
        let before = saved.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        println!(
            "{name:10} {now:8.2} instructions per byte (saved: {})",
            before.map_or("none".into(), |b| b.to_string())
        );
        if before.is_some_and(|before| now > before * TOO_MUCH) {
            worse.push(name);
        }
        writeln!(found, "{name} {now:.2}").unwrap();
    }
    if arguments.iter().any(|argument| argument == "--save") {
        fs::write(SAVED, found).unwrap();
    } else if !worse.is_empty() {
        panic!("more instructions than saved: {}", worse.join(", "));
    }
}
