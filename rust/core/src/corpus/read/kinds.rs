//! Kinds of files, by their names: which are read and how, which are skipped in folders, and what to do about
//! others.

use std::{
    collections::HashSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::corpus::source::{Format, Packing};

/// The kinds that are read.
pub const READ: &str =
    ".jsonl, .ndjson, .json and .txt (each also with .gz, .zst, .xz or .bz2), .parquet and .arrow";

/// The kind of a file, by the extensions of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is read in this way.
    Read(Format, Packing),
    /// It is not read; its extensions, such as `.tar.gz`.
    Other(String),
}

/// Format and compression, by the extensions of the name, in any case.
pub fn kind_of(path: &Path) -> Kind {
    let packing = match ending(path).as_deref() {
        Some("gz") => Packing::Gz,
        Some("zst" | "zstd") => Packing::Zst,
        Some("xz") => Packing::Xz,
        Some("bz2") => Packing::Bz2,
        _ => Packing::Plain,
    };
    let stem = if packing == Packing::Plain { path.into() } else { path.with_extension("") };
    match ending(&stem).as_deref() {
        Some("jsonl" | "ndjson" | "json") => Kind::Read(Format::Jsonl, packing),
        Some("txt") => Kind::Read(Format::Txt, packing),
        Some("parquet") if packing == Packing::Plain => Kind::Read(Format::Parquet, packing),
        Some("arrow") if packing == Packing::Plain => Kind::Read(Format::Arrow, packing),
        _ => Kind::Other(label_of(path, packing)),
    }
}

/// True for the kinds that version 1 read.
pub fn is_of_first_version(path: &Path) -> bool {
    let packed = match ending(path).as_deref() {
        Some("gz" | "zst" | "xz" | "bz2") => path.with_extension(""),
        _ => path.into(),
    };
    let known = ["jsonl", "txt", "parquet"];
    matches!(kind_of(path), Kind::Read(..)) && ending(&packed).is_some_and(|e| known.contains(&e.as_str()))
}

fn ending(path: &Path) -> Option<String> {
    path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase)
}

fn label_of(path: &Path, packing: Packing) -> String {
    let Some(last) = ending(path) else { return "without an ending".into() };
    let before = ending(&path.with_extension(""));
    match before {
        Some(before) if packing != Packing::Plain && before.len() <= 8 => format!(".{before}.{last}"),
        _ => format!(".{last}"),
    }
}

/// The message for a named file that is not of a kind that is read: what it is and what to do about it.
pub fn refusal(path: &Path) -> String {
    let (shown, quoted) = (path.display(), quote(path));
    let Kind::Other(label) = kind_of(path) else { return format!("{shown}: not read") };
    let parts: Vec<&str> = label.split('.').filter(|part| !part.is_empty()).collect();
    let has = |wanted: &[&str]| parts.iter().any(|part| wanted.contains(part));
    let unpack = match parts.last() {
        Some(&"gz") => Some("gzip -dc"),
        Some(&("zst" | "zstd")) => Some("zstd -dc"),
        Some(&"xz") => Some("xz -dc"),
        Some(&"bz2") => Some("bzip2 -dc"),
        _ => None,
    };
    let what = if has(&["tar", "tgz", "tbz2", "txz", "tzst"]) {
        format!("a tar archive; unpack it into a folder (tar -xf {quoted} -C FOLDER) and name the folder")
    } else if has(&["zip"]) {
        format!("a zip archive; unpack it into a folder (unzip {quoted} -d FOLDER) and name the folder")
    } else if has(&["7z", "rar"]) {
        "an archive; unpack it into a folder and name the folder".into()
    } else if has(&["csv", "tsv"]) {
        let tab = if has(&["tsv"]) { r#",delimiter="\t""# } else { "" };
        let make = format!(
            "python3 -c 'import csv,json,sys;csv.field_size_limit(1<<30);\
             [print(json.dumps(r)) for r in csv.DictReader(sys.stdin{tab})]'"
        );
        match unpack {
            Some(unpack) => {
                let made = quote(&path.with_extension("").with_extension("jsonl"));
                format!(
                    "a packed table of text; unpack it first and make JSON lines of it: \
                     {unpack} {quoted} | {make} > {made}"
                )
            }
            None => {
                let made = quote(&path.with_extension("jsonl"));
                format!("a table of text; make JSON lines of it: {make} < {quoted} > {made}")
            }
        }
    } else if has(&["parquet", "arrow"]) {
        "packed once more; unpack it (these files are compressed inside)".into()
    } else if has(&["pdf", "html", "htm", "doc", "docx", "epub", "xml"]) {
        "a document with markup; take its text out into .txt or .jsonl".into()
    } else if unpack.is_some() {
        format!("packed, but its name does not say what is in it; name it like {}", example(path))
    } else if label.starts_with('.') {
        format!("named {label}; {READ} are read: rename or convert it")
    } else {
        format!("without an ending that says what it holds; rename it to {shown}.jsonl or {shown}.txt")
    };
    format!("{shown}: not a kind of file we read: {what}")
}

/// The path as a word of a shell command.
fn quote(path: &Path) -> String {
    let shown = path.to_string_lossy();
    let shown = if shown.starts_with('-') { format!("./{shown}") } else { shown.into_owned() };
    let is_plain = |c: char| c.is_alphanumeric() || "_-./+,:@%=".contains(c);
    if shown.chars().all(is_plain) { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) }
}

fn example(path: &Path) -> String {
    let last = ending(path).unwrap_or_default();
    format!("{}.jsonl.{last}", path.with_extension("").display())
}

/// True for names that editors, notebooks and systems hide; they are left out of folders and patterns.
pub fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".") || name.as_bytes() == b"__MACOSX"
}

/// True for names that identify a folder.
pub fn is_telling(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    ["manifest.json", "plan.json", "state.json", "dataset_info.json", "zhuzi.json"].contains(&name)
}

/// True for files that describe a dataset (of `datasets.save_to_disk`) or a folder of Zhuzi, and for
/// datasets' caches.
///
/// `telling` are the files found that identify a folder, `arrow_folders` the folders with an Arrow file.
pub fn is_made_by_tools(path: &Path, telling: &HashSet<PathBuf>, arrow_folders: &HashSet<&Path>) -> bool {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return false;
    };
    let beside = |name: &str| telling.contains(&folder.join(name));
    match name {
        "dataset_info.json" | "state.json" => arrow_folders.contains(folder),
        "dataset_dict.json" => arrow_folders.iter().any(|arrow| arrow.parent() == Some(folder)),
        "manifest.json" | "plan.json" | "run.json" | "rejects.jsonl" => {
            beside("manifest.json") && beside("plan.json")
        }
        "zhuzi.json" => true,
        // The record next to a vocabulary or merged shards.
        _ if name.ends_with(".zhuzi.json") => true,
        _ => name.starts_with("cache-") && name.ends_with(".arrow") && beside("state.json"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        use Format::{Arrow, Jsonl, Parquet, Txt};
        use Packing::{Bz2, Gz, Plain, Xz, Zst};
        for (name, kind) in [
            ("a.jsonl", (Jsonl, Plain)),
            ("A.NDJSON", (Jsonl, Plain)),
            ("c4-zh.tfrecord-00000-of-01024.json.gz", (Jsonl, Gz)),
            ("a.jsonl.ZSTD", (Jsonl, Zst)),
            ("a.txt.xz", (Txt, Xz)),
            ("a.b.txt.bz2", (Txt, Bz2)),
            ("a.parquet", (Parquet, Plain)),
            ("data-00000-of-00001.arrow", (Arrow, Plain)),
        ] {
            assert_eq!(kind_of(Path::new(name)), Kind::Read(kind.0, kind.1), "{name}");
        }
        for (name, label, mend) in [
            ("a.tar", ".tar", "tar -xf"),
            ("a.jsonl.tar.gz", ".tar.gz", "tar -xf"),
            ("a.TGZ", ".tgz", "tar -xf"),
            ("a.zip", ".zip", "unzip"),
            ("a.csv", ".csv", "csv.DictReader(sys.stdin)"),
            ("my data.csv", ".csv", "< 'my data.csv' > 'my data.jsonl'"),
            ("it's.zip", ".zip", r"unzip 'it'\''s.zip' -d"),
            ("-a.tar", ".tar", "tar -xf ./-a.tar"),
            ("d/数据.tar", ".tar", "tar -xf d/数据.tar"),
            ("a.tsv.gz", ".tsv.gz", "delimiter"),
            ("x.csv.gz", ".csv.gz", "unpack it first"),
            ("x y.csv.xz", ".csv.xz", "xz -dc 'x y.csv.xz' | python3"),
            ("x.csv.zst", ".csv.zst", "> x.jsonl"),
            ("a.gz", ".gz", "a.jsonl.gz"),
            ("a.parquet.gz", ".parquet.gz", "unpack"),
            ("a.pdf", ".pdf", "take its text out"),
            ("a.docs", ".docs", "rename or convert"),
            ("a", "without an ending", "rename it to a.jsonl"),
        ] {
            assert_eq!(kind_of(Path::new(name)), Kind::Other(label.into()), "{name}");
            let said = refusal(Path::new(name));
            assert!(said.contains(mend) && said.contains("not a kind of file we read"), "{said}");
        }
        for name in ["a.json", "a.ndjson", "a.arrow", "a.jsonl.zstd", "a.csv"] {
            assert!(!is_of_first_version(Path::new(name)), "{name}");
        }
        for name in ["a.jsonl", "a.TXT.gz", "a.parquet"] {
            assert!(is_of_first_version(Path::new(name)), "{name}");
        }
    }
}
