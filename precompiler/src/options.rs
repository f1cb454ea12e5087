//! The options that an administrator or the author of a pod may set, and their precedence.
//!
//! There are five layers, each overriding the one before:
//!
//! 1. the built-in values;
//! 2. the annotations of the image;
//! 3. the node's file, `/etc/prewasi/config.toml`;
//! 4. the options of the runtime, from containerd's configuration or a client;
//! 5. the annotations of a container.
//!
//! File and runtime have the same keys, in TOML. Annotations come from the author of an image or pod, not from the administrator. They
//! can set only some options, and the layers below may restrict them further. Each mistake is an error that names the place and the
//! expected value: an ignored option must be an error.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use prewasi_engines::{Engine, Guest, Machine, Tuning};
use prewasi_oci::annotation::OPTION_PREFIX;
use toml::{Table, Value};

use crate::settings::CompileLimits;
use crate::{Image, PrepareError, Settings};

mod error;
mod keys;
mod value;

pub use error::{OptionsError, Place};
pub use value::Preopens;
pub(crate) use value::duration;

use self::keys::{KEYS, Key};

/// Path of the node's file, unless [`VARIABLE`] names another one.
const FILE: &str = "/etc/prewasi/config.toml";
/// Variable with the path of another file, which must exist; empty for no file.
const VARIABLE: &str = "PREWASI_CONFIG";
/// Variable with the address on which a container's server listens.
const ADDRESS: &str = "PREWASI_HTTP_ADDRESS";

/// Options of runc, which distributions and guides write into the table of any runtime. The shim reads them.
const OF_RUNC: [&str; 13] = [
    "BinaryName",
    "CriuImagePath",
    "CriuPath",
    "CriuWorkPath",
    "IoGid",
    "IoUid",
    "NoNewKeyring",
    "NoPivotRoot",
    "Root",
    "ShimCgroup",
    "SystemdCgroup",
    "TaskApiAddress",
    "TaskApiVersion",
];

/// All options.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folders that a wasm program may use.
    pub preopens: Preopens,
    /// Time limit of a wasm program, wall clock.
    pub timeout: Option<Duration>,
    /// Least level of a shim's log.
    pub log_level: Option<tracing::Level>,
    /// Limits of a wasm program, its network and its server. Its arguments, environment and folders do not count here.
    guest: Guest,
    /// The engine's choices, apart from those that follow from the limits of a wasm program.
    tuning: Tuning,
    /// Limits of a compile.
    compile: CompileLimits,
    /// Names of options that annotations may set.
    allowed_annotations: Vec<&'static str>,
    /// Names of options that a layer has set.
    set: BTreeSet<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            preopens: Preopens::Root,
            timeout: None,
            log_level: None,
            guest: Guest::default(),
            tuning: Tuning::default(),
            compile: CompileLimits::default(),
            allowed_annotations: KEYS.iter().filter(|key| key.annotation).map(|key| key.name).collect(),
            set: BTreeSet::new(),
        }
    }
}

impl Options {
    /// Takes the built-in values, and over them the node's file, if it exists.
    ///
    /// # Errors
    /// [`OptionsError`]; also if the file in the variable `PREWASI_CONFIG` does not exist.
    pub fn of_node() -> Result<Self, OptionsError> {
        let mut options = Self::default();
        match std::env::var_os(VARIABLE).map(PathBuf::from) {
            Some(path) if path.as_os_str().is_empty() => {}
            Some(path) => options.set_file(path)?,
            None => match options.set_file(FILE.into()) {
                Err(OptionsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            },
        }
        Ok(options)
    }

    /// Sets the options of a file.
    ///
    /// # Errors
    /// [`OptionsError`] names the file.
    pub fn set_file(&mut self, path: PathBuf) -> Result<(), OptionsError> {
        match fs::read_to_string(&path) {
            Ok(text) => self.set_toml(&text, &Place::File(path)),
            Err(source) => Err(OptionsError::Read { path, source }),
        }
    }

    /// Sets the options of a TOML document; `place` names it in messages. Options of runc are ignored in containerd's configuration of a
    /// runtime.
    ///
    /// # Errors
    /// [`OptionsError`] names the key; then no option has changed.
    pub fn set_toml(&mut self, text: &str, place: &Place) -> Result<(), OptionsError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| OptionsError::syntax(place, text, &error))?;
        // All options of the document are set, or none.
        let mut new = self.clone();
        let of_runc = |name: &str| *place == Place::Runtime && OF_RUNC.contains(&name);
        for (name, value) in table.iter().filter(|(name, _)| !of_runc(name)) {
            let key = keys::find(name).ok_or_else(|| {
                let nearest = value::nearest(name, KEYS.iter().map(|key| key.name)).map(str::to_owned);
                OptionsError::Unknown { place: place.clone(), key: name.clone(), nearest }
            })?;
            new.set(key, value, place)?;
        }
        *self = new;
        Ok(())
    }

    /// Sets the options in annotations; annotations of other programs are skipped.
    ///
    /// # Errors
    /// [`OptionsError`] names the annotation; also one that is not allowed.
    pub fn set_annotations<'a>(
        &mut self,
        annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<(), OptionsError> {
        let allowed = self.allowed_annotations.clone();
        for (annotation, value) in annotations {
            let Some(name) = annotation.strip_prefix(OPTION_PREFIX) else { continue };
            let place = Place::Annotation(annotation.clone());
            match keys::find(name).filter(|key| key.annotation) {
                Some(key) if allowed.contains(&key.name) => {
                    self.set(key, &Value::String(value.clone()), &place)?;
                }
                Some(_) => {
                    return Err(OptionsError::NotAllowed {
                        annotation: annotation.clone(),
                        allowed: allowed.join(", "),
                    });
                }
                None => {
                    let known = KEYS.iter().filter(|key| key.annotation);
                    return Err(unknown_annotation(place, name, known));
                }
            }
        }
        Ok(())
    }

    /// Sets the options in an image's annotations, unless another layer has set them.
    ///
    /// # Errors
    /// [`OptionsError`] names the image and the annotation.
    fn set_image(&mut self, image: &Image) -> Result<(), OptionsError> {
        let before = self.set.clone();
        for (annotation, value) in &image.annotations {
            let Some(name) = annotation.strip_prefix(OPTION_PREFIX) else { continue };
            let place = Place::Image { image: image.name.clone(), annotation: annotation.clone() };
            let Some(key) = keys::find(name).filter(|key| key.image) else {
                return Err(unknown_annotation(place, name, KEYS.iter().filter(|key| key.image)));
            };
            if before.contains(key.name) {
                // A layer with precedence has set the option; the image's value must be valid all the same.
                self.clone().set(key, &Value::String(value.clone()), &place)?;
            } else {
                self.set(key, &Value::String(value.clone()), &place)?;
            }
        }
        Ok(())
    }

    /// Adds the options of an image, and makes the engine that a start with all options uses. The caller provides the machine, and the
    /// container's memory limit in bytes.
    ///
    /// # Errors
    /// [`PrepareError`] names the option that the image may not set, or that the engine does not support.
    pub fn tuned(
        &self,
        engine: &dyn Engine,
        image: Option<&Image>,
        machine: Machine,
        memory: Option<u64>,
    ) -> Result<(Box<dyn Engine>, Self), PrepareError> {
        let mut options = self.clone();
        if let Some(image) = image {
            options.set_image(image)?;
        }
        let engine = engine.tuned(&Tuning { machine, memory, ..options.tuning() });
        let engine = engine.map_err(|source| PrepareError::Tuning {
            subject: image.map_or_else(|| "the program".to_owned(), |image| format!("image {}", image.name)),
            source,
        })?;
        Ok((engine, options))
    }

    /// Returns the tuning for compiling and loading.
    fn tuning(&self) -> Tuning {
        Tuning { fuel: self.guest.fuel.is_some(), instances: Some(self.guest.http.concurrency), ..self.tuning.clone() }
    }

    /// Sets a guest's limits, and the address of a server: from the guest's environment, else from the options.
    ///
    /// # Errors
    /// [`OptionsError`]: the address in the environment is malformed.
    pub fn limit(&self, guest: &mut Guest) -> Result<(), OptionsError> {
        let Guest { args, env, cwd, preopens, function, stop, .. } = std::mem::take(guest);
        *guest = Guest { args, env, cwd, preopens, function, stop, ..self.guest.clone() };
        if let Some((_, address)) = guest.env.iter().rfind(|(name, _)| name == ADDRESS) {
            guest.http.address =
                value::address(&Value::String(address.clone())).map_err(|reason| OptionsError::Value {
                    place: Place::Variable(ADDRESS),
                    key: "http_address",
                    value: format!("{address:?}"),
                    reason,
                })?;
        }
        Ok(())
    }

    /// Sets the limits of a compile.
    pub fn apply(&self, settings: &mut Settings) {
        settings.compile = self.compile.clone();
    }

    fn set(&mut self, key: &Key, value: &Value, place: &Place) -> Result<(), OptionsError> {
        self.set.insert(key.name);
        (key.set)(self, value).map_err(|reason| OptionsError::Value {
            place: place.clone(),
            key: key.name,
            value: value.to_string(),
            reason,
        })
    }
}

fn unknown_annotation(place: Place, name: &str, known: impl Iterator<Item = &'static Key>) -> OptionsError {
    let nearest = value::nearest(name, known.map(|key| key.name)).map(|nearest| format!("{OPTION_PREFIX}{nearest}"));
    OptionsError::UnknownAnnotation { place, nearest }
}

#[cfg(test)]
mod tests;
