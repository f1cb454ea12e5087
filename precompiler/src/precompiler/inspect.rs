//! Explains how an image would start, and why.

use prewasi_cache::{ImageRecord, Lookup, MissReason};
use prewasi_engines::{Engine, Machine, version_label};

use super::{Precompiler, Source};
use crate::{Content, Image, ImageError, Options, PrepareError, Step};

/// The decisions from an image's name to its program.
#[derive(Debug)]
pub struct Inspection {
    /// The decisions in their order.
    pub steps: Vec<Step>,
    /// The reason why the image cannot be used, if so.
    pub error: Option<PrepareError>,
}

impl Precompiler {
    /// Follows the steps of a start of an image with these options, without compiling or loading.
    pub async fn inspect(&self, record: &ImageRecord, engines: &[&dyn Engine], options: &Options) -> Inspection {
        let (mut steps, image) = Image::explain(&*self.store, record, self.settings.platform.as_ref()).await;
        let error = match image {
            Ok(image) => self.look_at(&image, engines, options, &mut steps).await.err(),
            Err(error) => Some(error.into()),
        };
        Inspection { steps, error }
    }

    async fn look_at(
        &self,
        image: &Image,
        engines: &[&dyn Engine],
        options: &Options,
        steps: &mut Vec<Step>,
    ) -> Result<(), PrepareError> {
        let mut usable = Ok(());
        for engine in engines {
            let (engine, _) = options.tuned(*engine, Some(image), Machine::default(), None)?;
            let (ahead, refused) = self.look_ahead(image, &*engine).await;
            steps.extend(ahead);
            usable = usable.and(refused.map_or(Ok(()), Err));
        }
        usable?;
        image.data_files()?;
        Ok(())
    }

    /// Returns the steps of a start, and the error that it would end with.
    async fn look_ahead(&self, image: &Image, engine: &dyn Engine) -> (Vec<Step>, Option<ImageError>) {
        let layers = match &image.content {
            Content::Wasm(layers) => layers,
            Content::Files { platform } => {
                let found = format!("no wasm layer, platform {platform}");
                let therefore =
                    "a start looks for the entrypoint in the file system: .wasm and .wat files run".to_owned();
                return (vec![Step { step: "start", found, therefore }], None);
            }
        };
        let mut steps = Vec::new();
        let mut start = Vec::new();
        let mut refused = None;
        for layer in layers {
            let source = Source::layer(image, layer);
            let compiles = |found, how| match source.check_imports(engine) {
                Ok(()) => (found, how, None),
                Err(error) => (found, "cannot give the layer what its config says that it imports", Some(error)),
            };
            let (found, therefore, error) = match source.key(engine).filter(|_| engine.compiles()) {
                Some(key) => match self.cache.lookup(&key).await {
                    Ok(Lookup::Hit(artifact)) => (format!("artifact {}", artifact.digest), "maps this artifact", None),
                    Ok(Lookup::Miss(reason)) => compiles(describe(&reason).to_owned(), "compiles the layer first"),
                    Err(error) => compiles(crate::chain(&error), "compiles the layer, and goes on without the cache"),
                },
                None => ("no native code".to_owned(), "interprets the layer", None),
            };
            refused = refused.or(error);
            steps.push(Step {
                step: "look-up",
                found: format!("{} {} of {}: {found}", engine.name(), version_label(engine), layer.digest),
                therefore: therefore.to_owned(),
            });
            start.push(therefore);
        }
        let therefore = match (layers.as_slice(), start.as_slice()) {
            ([_], [therefore]) => format!("a start with {} {therefore}", engine.name()),
            _ => "a start takes the layer titled like the container's entrypoint".to_owned(),
        };
        steps.push(Step { step: "start", found: format!("{} wasm layer(s)", layers.len()), therefore });
        (steps, refused)
    }
}

fn describe(reason: &MissReason) -> &'static str {
    match reason {
        MissReason::Absent => "absent (no label names an artifact)",
        MissReason::Dangling => "dangling (the label names a blob that is not there)",
        MissReason::Foreign => "foreign (the artifact's own labels do not bear it out)",
        MissReason::Corrupt(_) => "corrupt (the artifact's bytes do not hash to its digest)",
    }
}
