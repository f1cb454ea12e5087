//! The command line: fills in the values that a user leaves out, and gives every error its exit code.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use oci_tar_builder::{
    BuildError, Builder, Format, Image, Layer, LayerError, Reference, ReferenceError, WasmError, WriteError, media_type,
};
use prewasi_oci::{PreambleError, WasmKind};

/// Packs WebAssembly programs as an OCI image (or CNCF wasm artifact) in a tar that `ctr images import` and
/// `docker load` take.
///
/// The image is called [REPO/]NAME:TAG. Its os is read from the wasm: wasip1 for a module, wasip2 for a component.
/// The same input gives the same bytes; SOURCE_DATE_EPOCH sets the time that is written (default: 1970).
#[derive(Debug, Parser)]
#[command(
    name = "oci-tar-builder",
    version,
    about,
    after_help = "Exit codes: 0 written, 1 the input is wrong, 2 the output cannot be written, 64 usage."
)]
struct Args {
    /// Name of the image; a whole reference such as localhost:5000/a/b:v1 is taken too [default: the first file's name]
    #[arg(short, long)]
    name: Option<String>,

    /// Registry and folder in front of the name, such as ghcr.io/me [default: docker.io/library]
    #[arg(short, long)]
    repo: Option<String>,

    /// Tag of the image [default: latest]
    #[arg(short, long)]
    tag: Option<String>,

    /// Module or component to pack; may be given several times
    #[arg(short, long = "module", value_name = "FILE")]
    modules: Vec<PathBuf>,

    /// File to pack as a layer of a media type, e.g. application/vnd.oci.image.layer.v1.tar=files.tar; may be given
    /// several times
    #[arg(short, long = "layer", value_name = "TYPE=PATH", value_parser = typed_path)]
    layers: Vec<(String, PathBuf)>,

    /// File that the program finds in its container, read-only, under an absolute path, e.g. model.bin=/data/model.bin; may be
    /// given several times
    #[arg(short, long, value_name = "FILE=/PATH", value_parser = mounted_file)]
    data: Vec<(PathBuf, String)>,

    /// Folder whose *.wasm files, all of them components, are packed in the order of their names
    #[arg(short, long, value_name = "DIR")]
    components: Option<PathBuf>,

    /// Make a CNCF wasm artifact of one module or component instead of an image
    #[arg(short, long, conflicts_with_all = ["entrypoint", "env", "labels", "stop_signal"])]
    as_artifact: bool,

    /// Os of the image [default: read from the wasm]
    #[arg(long)]
    os: Option<String>,

    /// Program to run, or FILE#FUNCTION; given several times: its arguments [default: the first wasm file's name]
    #[arg(short, long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,

    /// Environment variable of the program; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,

    /// Signal that stops a container, such as SIGINT or RTMIN+3 [default: SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,

    /// Label of the image; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,

    /// Annotation of the manifest; may be given several times
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = pair)]
    annotations: Vec<(String, String)>,

    /// Wrap the manifest in an image index that names its platform
    #[arg(long)]
    platform_index: bool,

    /// Archive to write [default: NAME.tar]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("cannot read folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot pack {}: there is no .wasm file in it", path.display())]
    NoComponents { path: PathBuf },
    #[error("cannot pack {} as a component: it is a module", path.display())]
    NotAComponent { path: PathBuf },
    #[error("cannot name the image: no file is given whose name it could have")]
    NoName,
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("cannot use SOURCE_DATE_EPOCH={value:?}: expected the seconds since 1970")]
    Epoch { value: String },
    #[error("cannot use --tag {tag}: the name has tag {other}")]
    TwoTags { tag: String, other: String },
}

pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // If the stream is closed nobody can be told.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Failure::USAGE } else { 0 });
        }
    };
    match run(args) {
        Ok(written) => {
            // The archive is there, whether or not somebody reads this.
            let _ = io::stdout().write_all(written.as_bytes());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            report(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(args: Args) -> Result<String, Failure> {
    let created = epoch(std::env::var_os("SOURCE_DATE_EPOCH"))?;
    let layers = layers(&args)?;
    let reference = reference(&args, &layers)?;
    let output = args.output.unwrap_or_else(|| PathBuf::from(format!("{}.tar", reference.base_name())));
    let format = if args.as_artifact { Format::Artifact } else { Format::Image };
    let mut builder = Builder::new(format, reference)
        .entrypoint(args.entrypoint)
        .platform_index(args.platform_index)
        .created(created);
    builder = layers.into_iter().fold(builder, Builder::layer);
    builder = args.env.iter().fold(builder, |builder, (name, value)| builder.env(name, value));
    builder = args.labels.iter().fold(builder, |builder, (key, value)| builder.label(key, value));
    builder = args.annotations.iter().fold(builder, |builder, (key, value)| builder.annotation(key, value));
    if let Some(os) = &args.os {
        builder = builder.os(os);
    }
    if let Some(signal) = &args.stop_signal {
        builder = builder.stop_signal(signal);
    }
    let image = builder.build()?;
    let size = image.write_file(&output)?;
    Ok(summary(&image, &output, size))
}

/// Reads all files: modules, then components, then other layers, then data.
fn layers(args: &Args) -> Result<Vec<Layer>, Failure> {
    let mut layers = Vec::new();
    for path in &args.modules {
        layers.push(Layer::read(media_type::WASM, path)?);
    }
    for path in components(args.components.as_deref())? {
        // Every layer of an artifact has the same type.
        let media_type = if args.as_artifact { media_type::WASM } else { media_type::COMPONENT };
        let layer = Layer::read(media_type, &path)?;
        if layer.wasm().is_some_and(|wasm| wasm.kind == WasmKind::Module) {
            return Err(Failure::NotAComponent { path });
        }
        layers.push(layer);
    }
    for (media_type, path) in &args.layers {
        layers.push(Layer::read(media_type, path)?);
    }
    for (file, path) in &args.data {
        layers.push(Layer::read(media_type::DATA, file)?.mounted_at(path)?);
    }
    Ok(layers)
}

/// Lists the wasm files of a folder by name.
fn components(folder: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    let failure = |source| Failure::Folder { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in folder.read_dir().map_err(failure)? {
        let path = entry.map_err(failure)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() { Err(Failure::NoComponents { path: folder.to_owned() }) } else { Ok(paths) }
}

fn reference(args: &Args, layers: &[Layer]) -> Result<Reference, Failure> {
    let name = match (&args.name, layers.first().and_then(Layer::title)) {
        (Some(name), _) => name.clone(),
        // The name of a file is a suggestion, so its case may be changed.
        (None, Some(title)) => title.rsplit_once('.').map_or(title, |(stem, _)| stem).to_ascii_lowercase(),
        // The input is missing then. That message is clearer than one about a missing name.
        (None, None) if layers.is_empty() => "image".to_owned(),
        (None, None) => return Err(Failure::NoName),
    };
    let name = match &args.repo {
        Some(repo) => format!("{}/{name}", repo.trim_end_matches('/')),
        None => name,
    };
    let reference: Reference = name.parse()?;
    match (&args.tag, reference.tag()) {
        (Some(tag), Some(other)) if tag != other => Err(Failure::TwoTags { tag: tag.clone(), other: other.to_owned() }),
        (Some(tag), _) => Ok(reference.with_tag(tag)?),
        (None, _) => Ok(reference),
    }
}

fn epoch(value: Option<std::ffi::OsString>) -> Result<u64, Failure> {
    let Some(value) = value else { return Ok(0) };
    let value = value.to_string_lossy();
    value.parse().map_err(|_| Failure::Epoch { value: value.clone().into_owned() })
}

fn typed_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((media_type, path)) if !media_type.is_empty() && !path.is_empty() => {
            Ok((media_type.to_owned(), PathBuf::from(path)))
        }
        _ => Err("expected TYPE=PATH".to_owned()),
    }
}

fn mounted_file(text: &str) -> Result<(PathBuf, String), String> {
    match text.split_once("=/") {
        Some((file, path)) if !file.is_empty() => Ok((PathBuf::from(file), format!("/{path}"))),
        _ => Err("expected FILE=/PATH".to_owned()),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn summary(image: &Image, output: &Path, size: u64) -> String {
    let kind = match image.format() {
        Format::Image => "image",
        Format::Artifact => "artifact",
    };
    let layers =
        if image.layer_count() == 1 { "1 layer".to_owned() } else { format!("{} layers", image.layer_count()) };
    format!(
        "{}\n  digest  {}\n  content {} {kind}, {layers}\n  written {} ({})\n",
        image.reference(),
        image.digest(),
        image.os(),
        output.display(),
        human(size),
    )
}

fn human(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..MIB => format!("{:.1} KiB", bytes as f64 / KIB as f64),
        _ => format!("{:.1} MiB", bytes as f64 / MIB as f64),
    }
}

/// Prints an error, its causes, and the remedy.
fn report(failure: &Failure) {
    let mut text = format!("error: {failure}\n");
    let mut cause = failure.source();
    while let Some(error) = cause {
        text.push_str(&format!("caused by: {error}\n"));
        cause = error.source();
    }
    if let Some(hint) = failure.hint() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // If standard error is gone nobody can be told.
    let _ = io::stderr().write_all(text.as_bytes());
}

impl Failure {
    /// The command line is wrong.
    const USAGE: u8 = 64;

    fn exit_code(&self) -> u8 {
        match self {
            Self::Epoch { .. } | Self::TwoTags { .. } => Self::USAGE,
            Self::Write(WriteError::Write { .. }) => 2,
            _ => 1,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Layer(LayerError::Wasm { source, .. }) => match source {
                WasmError::Preamble(PreambleError::NativeCode { .. }) => {
                    Some("pack the .wasm that it was compiled from; each node compiles for itself")
                }
                WasmError::Text => Some("translate it first, e.g. with `wasm-tools parse FILE -o FILE.wasm`"),
                WasmError::Truncated { .. }
                | WasmError::Preamble(PreambleError::Truncated { .. } | PreambleError::Empty) => {
                    Some("was the build or the download interrupted?")
                }
                WasmError::Preamble(PreambleError::NotWasm) => {
                    Some("files of other types are packed with --layer TYPE=PATH")
                }
                WasmError::Invalid { .. } | WasmError::Preamble(PreambleError::Version { .. }) => None,
            },
            Self::Layer(LayerError::NotAFile { kind: "folder", .. }) => {
                Some("--components packs the components of a folder")
            }
            Self::Layer(LayerError::CompressedTar { .. }) => {
                Some("decompress it and pack it as application/vnd.oci.image.layer.v1.tar")
            }
            Self::Layer(LayerError::Mount { .. }) => Some("a path is absolute and plain, such as /data/model.bin"),
            Self::Build(BuildError::NoProgram { .. }) => Some("give the program with --module or --components"),
            Self::NotAComponent { .. } => Some("modules are packed with --module"),
            Self::Reference(_) => {
                Some("a reference is [HOST[:PORT]/]PATH[:TAG][@DIGEST]; see --name, --repo and --tag")
            }
            Self::NoName => Some("name it with --name"),
            Self::Build(BuildError::NoLayers { .. }) => Some("give a file with --module, --components or --layer"),
            Self::Build(BuildError::ArtifactLayers { .. }) => {
                Some("without --as-artifact an image is made, which may have many")
            }
            Self::Build(BuildError::UselessLayer { .. }) => Some("--data FILE=/PATH mounts a file beside the program"),
            Self::Build(BuildError::OsOfWasm { .. }) => Some("leave out --os: it is read from the wasm"),
            Self::Build(BuildError::NoOs { .. } | BuildError::MixedOs { .. }) => {
                Some("--os says for what the image is")
            }
            _ => None,
        }
    }
}
