//! The service that compiles images before a pod asks for them.
//!
//! It listens to containerd's image events ([`follow`]), inspects each image with an event, and compiles images without native code, the
//! most urgent first ([`queue`]). Everything happens in one thread; compiles are child processes. A failure is logged and counted, and
//! the service continues: it saves time, and nothing depends on it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use prewasi_cache::{Digest, ImageEvents, ImageRecord};
use prewasi_engines::{Engine, Machine};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::chain;
use crate::{Content, Image, ImageError, Options, Origin, Precompiler, PrepareError, Ready, Settings, StoreAddress};

mod follow;
mod metrics;
mod queue;
mod server;

use follow::{Follower, News};
use metrics::Metrics;
use queue::{Key, Queue, Urgency};

/// Capacity of the channel of events. containerd keeps the rest.
const UNHEARD: usize = 256;
/// Maximum number of remembered manifests that cannot be compiled; hostile ones must not fill the memory.
const MOST_REFUSED: usize = 10_000;

/// Maximum number of inspections that a compile waits for: a flood of events must not block all compiles.
const MOST_LOOKS: usize = 2_000;

/// Time limit at the end for pending messages to containerd.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The configuration of the service.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// Socket of containerd.
    pub(crate) address: PathBuf,
    /// Namespaces to watch; all if there are none.
    pub(crate) namespaces: Vec<String>,
    /// Maximum number of images that are compiled at the same time.
    pub(crate) jobs: usize,
    /// Label of image records with a number: images with lower numbers are compiled first.
    pub(crate) rank_label: Option<String>,
    /// Limits of a compile. The store in it does not count.
    pub(crate) settings: Settings,
    /// The options of each runtime for which images are prepared.
    pub(crate) options: Vec<Options>,
}

/// The image to compile.
type Work = Rc<Image>;
type Busy<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = WorkEnd> + 'a>>>;

/// The end of an inspection or compile.
enum WorkEnd {
    Looked(Key, Result<Option<(Urgency, Work)>, PrepareError>),
    Worked(Key, Work, Result<(), PrepareError>),
}

/// The running service.
struct Service<'a> {
    watch: Watch,
    engines: Vec<&'a dyn Engine>,
    metrics: Arc<Metrics>,
    precompilers: RefCell<HashMap<String, Rc<Precompiler>>>,
    /// Manifests that are at fault themselves: a further event does not change that.
    refused: RefCell<HashSet<Digest>>,
}

/// The current work.
#[derive(Default)]
struct Going {
    looks: usize,
    compiles: usize,
    /// Number of inspections that have ended since the last start of a compile.
    looked: usize,
    /// Senders for each compile; dropping one cancels the compile.
    wanted: HashMap<Key, oneshot::Sender<()>>,
}

/// Watches until `stop` resolves; running compiles are cancelled then. `listener` serves the metrics.
///
/// # Errors
/// containerd cannot be reached at the start. Later failures of containerd are retried.
pub(crate) async fn run(
    watch: Watch,
    engines: &[&dyn Engine],
    listener: Option<TcpListener>,
    stop: impl Future<Output = ()>,
) -> Result<(), PrepareError> {
    let engines: Vec<_> = engines.iter().copied().filter(|engine| engine.compiles()).collect();
    let metrics = Arc::new(Metrics::new(engines.iter().map(|engine| engine.name())));
    let server = listener.map(|listener| tokio::spawn(server::serve(listener, metrics.clone())));
    let events = ImageEvents::subscribe(&watch.address).await?;
    let (sender, news) = mpsc::channel(UNHEARD);
    let follower = Follower { address: watch.address.clone(), namespaces: watch.namespaces.clone(), news: sender };
    let follower = tokio::spawn(follower.follow(events));
    let service = Service { watch, engines, metrics, precompilers: RefCell::default(), refused: RefCell::default() };
    service.work(news, stop).await;
    tell(&[NotifyState::Stopping]);
    follower.abort();
    if let Some(server) = server {
        server.abort();
    }
    drop(service);
    tidy_up().await;
    Ok(())
}

/// Waits until released locks have informed containerd.
async fn tidy_up() {
    let tasks = tokio::runtime::Handle::current().metrics();
    let done = async {
        while tasks.num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(LAST_WORDS, done).await.is_err() {
        tracing::debug!("ending before all requests to containerd are answered");
    }
}

impl<'a> Service<'a> {
    async fn work(&'a self, mut news: mpsc::Receiver<News>, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut queue = Queue::default();
        let mut going = Going::default();
        let mut busy: Busy<'a> = FuturesUnordered::new();
        loop {
            self.start(&mut queue, &mut going, &busy);
            self.metrics.queue.set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
            tokio::select! {
                () = &mut stop => return,
                heard = news.recv() => match heard {
                    Some(heard) => self.hear(heard, &mut queue, &mut going),
                    None => return,
                },
                Some(ended) = busy.next(), if !busy.is_empty() => self.end(ended, &mut queue, &mut going),
            }
        }
    }

    fn hear(&self, news: News, queue: &mut Queue<Work>, going: &mut Going) {
        match news {
            News::Present(key) => {
                self.metrics.events.inc();
                queue.add(key);
            }
            News::Removed(key) => {
                self.metrics.events.inc();
                queue.remove(&key);
                going.wanted.remove(&key);
            }
            News::Listed => {
                self.metrics.connected.set(1);
                self.metrics.lists.inc();
                if !self.metrics.is_ready() {
                    self.metrics.set_ready();
                    tell(&[NotifyState::Ready]);
                }
                tracing::info!(images = queue.len(), "all images are listed");
            }
            News::Lost(error) => {
                self.metrics.connected.set(0);
                tracing::warn!(error = chain(&error), "lost the connection to containerd; waiting for it");
            }
        }
    }

    /// Starts the next work: inspections first, since they determine the urgency.
    fn start(&'a self, queue: &mut Queue<Work>, going: &mut Going, busy: &Busy<'a>) {
        if going.looks == 0
            && let Some(key) = queue.next_unseen()
        {
            going.looks += 1;
            busy.push(Box::pin(async move {
                let looked = self.look(&key).await;
                WorkEnd::Looked(key, looked)
            }));
        }
        while going.compiles < self.watch.jobs.max(1)
            && (going.looks == 0 || going.looked >= MOST_LOOKS)
            && let Some((key, work)) = queue.next_ready()
        {
            going.compiles += 1;
            going.looked = 0;
            let (wanted, unwanted) = oneshot::channel();
            going.wanted.insert(key.clone(), wanted);
            busy.push(Box::pin(async move {
                let worked = tokio::select! {
                    worked = self.compile(&key, &work) => worked,
                    // Cancelling ends the worker; a store in progress runs to its end, so that it leaves nothing behind.
                    _ = unwanted => Ok(()),
                };
                WorkEnd::Worked(key, work, worked)
            }));
        }
    }

    fn end(&self, ended: WorkEnd, queue: &mut Queue<Work>, going: &mut Going) {
        match ended {
            WorkEnd::Looked(key, looked) => {
                going.looks -= 1;
                going.looked += 1;
                let work = looked.unwrap_or_else(|error| {
                    self.fail(&key, &error);
                    None
                });
                queue.looked(key, work);
            }
            WorkEnd::Worked(key, image, worked) => {
                going.compiles -= 1;
                going.wanted.remove(&key);
                let name = key.clone();
                match (queue.done(key), worked) {
                    (_, Ok(())) => {}
                    (false, Err(error)) => {
                        tracing::debug!(
                            image = name.image,
                            error = chain(&error),
                            "the image has been removed meanwhile"
                        );
                    }
                    (true, Err(error)) => {
                        if error.is_input() {
                            self.refuse(&image.manifest);
                        }
                        self.fail(&name, &error);
                    }
                }
            }
        }
    }

    fn fail(&self, Key { namespace, image }: &Key, error: &PrepareError) {
        self.metrics.image_failures.inc();
        tracing::warn!(namespace, image, error = chain(error), "cannot make an image ready");
    }

    fn refuse(&self, manifest: &Digest) {
        let mut refused = self.refused.borrow_mut();
        if refused.len() >= MOST_REFUSED {
            refused.clear();
        }
        refused.insert(manifest.clone());
    }

    /// Determines the images to compile and their urgency.
    async fn look(&self, key: &Key) -> Result<Option<(Urgency, Work)>, PrepareError> {
        let precompiler = self.precompiler(&key.namespace).await?;
        let Some(record) = precompiler.store().image(&key.image).await? else { return Ok(None) };
        let image = match precompiler.resolve_record(&record).await {
            Ok(image) => image,
            Err(error) if is_of_no_concern(&error, &record) => {
                tracing::debug!(
                    namespace = key.namespace,
                    image = key.image,
                    error = chain(&error),
                    "nothing to compile"
                );
                return Ok(None);
            }
            Err(error) if precompiler.store().image(&key.image).await?.is_some() => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        let Content::Wasm(layers) = &image.content else { return Ok(None) };
        if self.refused.borrow().contains(&image.manifest) {
            return Ok(None);
        }
        let size = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        let rank = self.watch.rank_label.as_ref().and_then(|label| image.labels.get(label)?.trim().parse().ok());
        Ok(Some((Urgency { rank: rank.unwrap_or(i64::MAX), size }, Rc::new(image))))
    }

    /// Prepares every wasm layer of an image for every engine and runtime. An image that has been removed meanwhile is no failure.
    async fn compile(&self, key: &Key, image: &Image) -> Result<(), PrepareError> {
        let precompiler = self.precompiler(&key.namespace).await?;
        let mut result = Ok(());
        let Content::Wasm(layers) = &image.content else { return Ok(()) };
        let ways =
            || self.engines.iter().flat_map(|engine| self.watch.options.iter().map(move |options| (*engine, options)));
        for (layer, (engine, options)) in layers.iter().flat_map(|layer| ways().map(move |way| (layer, way))) {
            let prepared = match options.tuned(engine, Some(image), Machine::default(), None) {
                Ok((engine, _)) => precompiler.prepare_layer(image, layer, &*engine).await,
                Err(error) => Err(error),
            };
            if let Ok(Ready { origin: Origin::Compiled { elapsed, .. }, size, .. }) = &prepared {
                tracing::info!(
                    namespace = key.namespace,
                    image = key.image,
                    layer = %layer.digest,
                    engine = engine.name(),
                    seconds = %format_args!("{:.3}", elapsed.as_secs_f64()),
                    size,
                    "compiled"
                );
            }
            match prepared {
                Ok(ready) if ready.stored.is_some() => {
                    tracing::debug!(image = key.image, engine = engine.name(), origin = ?ready.origin, "ready");
                }
                Ok(_) => result = Err(PrepareError::unstored(&layer.digest)),
                Err(error) => result = Err(error),
            }
        }
        match result {
            Err(_) if precompiler.store().image(&key.image).await?.is_none() => Ok(()),
            result => result,
        }
    }

    async fn precompiler(&self, namespace: &str) -> Result<Rc<Precompiler>, PrepareError> {
        if let Some(precompiler) = self.precompilers.borrow().get(namespace) {
            return Ok(precompiler.clone());
        }
        let store = StoreAddress::Containerd { address: self.watch.address.clone(), namespace: namespace.to_owned() };
        let settings = Settings { store, ..self.watch.settings.clone() };
        let precompiler = Rc::new(Precompiler::connect(settings).await?.observed_by(self.metrics.clone()));
        self.precompilers.borrow_mut().insert(namespace.to_owned(), precompiler.clone());
        Ok(precompiler)
    }
}

/// Returns whether an image cannot be read only because its wasm was never pulled. It is for other machines, or a pull has stored only
/// its index, as CRI does without a match for the node's platform. A later pull sends another event.
fn is_of_no_concern(error: &ImageError, record: &ImageRecord) -> bool {
    match error {
        ImageError::NoPlatform { .. } => true,
        ImageError::MissingBlob { what: "manifest", digest, .. } => *digest != record.target,
        _ => false,
    }
}

/// Notifies systemd, if it listens.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(error = &error as &dyn Error, "cannot tell systemd");
    }
}
