//! Decides which native code of a layout may run. See [`crate::provenance`].

use prewasi_engines::Engine;

use super::{Origin, Precompiler, Ready, Source};
use crate::PrepareError;
use crate::provenance::unchangeable;

impl Precompiler {
    /// Makes sure that the artifact was compiled by this user: a layout's labels are not trusted, and a file that others could change is
    /// copied. Artifacts of a containerd are trustworthy as they are.
    pub(super) async fn own(&self, source: &Source, engine: &dyn Engine, ready: Ready) -> Result<Ready, PrepareError> {
        let (Some(provenance), Some(key)) = (&self.provenance, source.key(engine)) else { return Ok(ready) };
        let is_known = match (&ready.stored, ready.origin) {
            (None, _) => return Ok(ready),
            (_, Origin::Compiled { .. }) => true,
            (Some(artifact), _) => self.settings.trust_layout || provenance.knows(&key, artifact),
        };
        let ready = if is_known {
            ready
        } else {
            tracing::debug!(
                subject = source.subject,
                "native code of the layout was not compiled here; compiling again"
            );
            self.replace(source, engine).await?
        };
        self.note(source, engine, &ready);
        let Ready { file, size, stored: Some(digest), origin } = ready else { return Ok(ready) };
        let io = |error| PrepareError::Io { subject: format!("native code of {}", source.subject), source: error };
        Ok(Ready { file: unchangeable(file, &digest).map_err(io)?, size, stored: Some(digest), origin })
    }

    /// Records an artifact that was just compiled and stored.
    pub(super) fn note(&self, source: &Source, engine: &dyn Engine, ready: &Ready) {
        if let (Some(provenance), Some(key)) = (&self.provenance, source.key(engine))
            && let (Some(artifact), Origin::Compiled { .. }) = (&ready.stored, ready.origin)
        {
            provenance.note(&key, artifact);
        }
    }
}
