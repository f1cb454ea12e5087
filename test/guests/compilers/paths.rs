//! Makes the calls of its arguments, `CALL:PATH` or `CALL:PATH:TEXT` each, and prints the result of Rust's library, one line each.

use std::{env, fs, io};

fn call(name: &str, path: &str, text: &str) -> io::Result<String> {
    Ok(match name {
        "read" => fs::read_to_string(path)?.lines().next().unwrap_or_default().to_owned(),
        "write" => fs::write(path, text).map(|()| "ok".to_owned())?,
        "mkdir" => fs::create_dir(path).map(|()| "ok".to_owned())?,
        "unlink" => fs::remove_file(path).map(|()| "ok".to_owned())?,
        "stat" => if fs::metadata(path)?.is_dir() { "folder" } else { "file" }.to_owned(),
        "list" => {
            let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
            let mut names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names.join(" ")
        }
        "cwd" => env::current_dir()?.display().to_string(),
        _ => String::new(),
    })
}

fn main() {
    for word in env::args().skip(1) {
        let mut parts = word.splitn(3, ':');
        let [name, path, text] = [(); 3].map(|()| parts.next().unwrap_or_default());
        println!("{word} = {}", call(name, path, text).unwrap_or_else(|_| "failed".to_owned()));
    }
}
