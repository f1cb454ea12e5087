//! `doctor`: checks whether this node meets the requirements of prewasi.

use clap::Args;
use prewasi_engines::Engine;

use super::progress::print;
use super::{Status, StoreArgs, conclude};
use crate::PrepareError;
use crate::doctor::{Health, examine};

/// Check this node: containerd, its files, the shims, the kernel
///
/// Exit code 1 if a check failed; warnings do not count.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl Doctor {
    pub(super) fn execute(&self, engines: &[&dyn Engine]) -> Status {
        conclude(self.run(engines))
    }

    async fn run(&self, engines: &[&dyn Engine]) -> Result<Status, PrepareError> {
        let path = std::env::var("PATH").unwrap_or_default();
        let checks = examine(&self.store.settings()?, engines, &path).await;
        if self.json {
            print(&serde_json::json!({ "checks": checks }).to_string());
        } else {
            for check in &checks {
                let word = match check.health {
                    Health::Ok => "OK",
                    Health::Warn => "WARN",
                    Health::Failed => "FAILED",
                };
                print(&format!("{word:<8}{}: {}", check.name, check.found));
                if let Some(hint) = &check.hint {
                    print(&format!("        hint: {hint}"));
                }
            }
        }
        Ok(if checks.iter().any(|check| check.health == Health::Failed) { Status::Input } else { Status::Done })
    }
}
