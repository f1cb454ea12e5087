//! The service that compiles images before a pod asks for them.
//!
//! It listens to containerd's image events ([`follow`]), looks at each image it hears of, and compiles what has no native
//! code yet, the most urgent first ([`queue`]). Everything happens in one thread; compiles are child processes. A failure is
//! said and counted, and the rest goes on: this service saves time, and nothing depends on it.

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

/// How much may be heard before it has been dealt with. containerd keeps the rest.
const UNHEARD: usize = 256;
/// How many manifests are remembered that cannot be compiled; hostile ones must not fill the memory.
const MOST_REFUSED: usize = 10_000;

/// How many looks a compile waits for at the most: events that never end must not keep everything waiting.
const MOST_LOOKS: usize = 2_000;

/// How long the end waits for what is still being said to containerd.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What the service is to do.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// Socket of containerd.
    pub(crate) address: PathBuf,
    /// Namespaces to watch; all if there are none.
    pub(crate) namespaces: Vec<String>,
    /// How many images are compiled at the same time.
    pub(crate) jobs: usize,
    /// Label of image records whose number says which is compiled first, lowest first.
    pub(crate) rank_label: Option<String>,
    /// Limits of a compile. The store in it does not count.
    pub(crate) settings: Settings,
    /// The options of each runtime that images are made ready for.
    pub(crate) options: Vec<Options>,
}

/// What there is to do for an image.
type Work = Rc<Image>;
type Busy<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Ended> + 'a>>>;

/// Something that was being done has ended.
enum Ended {
    Looked(Key, Result<Option<(Urgency, Work)>, PrepareError>),
    Worked(Key, Work, Result<(), PrepareError>),
}

/// The service at work.
struct Service<'a> {
    watch: Watch,
    engines: Vec<&'a dyn Engine>,
    metrics: Arc<Metrics>,
    precompilers: RefCell<HashMap<String, Rc<Precompiler>>>,
    /// Manifests that are at fault themselves: another event does not make them better.
    refused: RefCell<HashSet<Digest>>,
}

/// What goes on at the moment.
#[derive(Default)]
struct Going {
    looks: usize,
    compiles: usize,
    /// Looks that have ended since a compile was last started.
    looked: usize,
    /// What ends a compile when it is dropped.
    wanted: HashMap<Key, oneshot::Sender<()>>,
}

/// Watches until `stop` resolves; whatever is being compiled then is ended. `listener` is for whoever reads the metrics.
///
/// # Errors
/// If containerd cannot be reached at the start. Later it may come and go.
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

/// Lets locks that were held tell containerd that they are not any more.
async fn tidy_up() {
    let tasks = tokio::runtime::Handle::current().metrics();
    let done = async {
        while tasks.num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(LAST_WORDS, done).await.is_err() {
        tracing::debug!("ending although something is still being said to containerd");
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
                tracing::warn!(error = chain(&error), "containerd has gone; waiting for it");
            }
        }
    }

    /// Starts what may be started: looks first, since they say what is urgent.
    fn start(&'a self, queue: &mut Queue<Work>, going: &mut Going, busy: &Busy<'a>) {
        if going.looks == 0
            && let Some(key) = queue.next_unseen()
        {
            going.looks += 1;
            busy.push(Box::pin(async move {
                let looked = self.look(&key).await;
                Ended::Looked(key, looked)
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
                    // Ends the worker; the store does to its end what it has begun, so that nothing is left there.
                    _ = unwanted => Ok(()),
                };
                Ended::Worked(key, work, worked)
            }));
        }
    }

    fn end(&self, ended: Ended, queue: &mut Queue<Work>, going: &mut Going) {
        match ended {
            Ended::Looked(key, looked) => {
                going.looks -= 1;
                going.looked += 1;
                let work = looked.unwrap_or_else(|error| {
                    self.fail(&key, &error);
                    None
                });
                queue.looked(key, work);
            }
            Ended::Worked(key, image, worked) => {
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

    /// Finds out what there is to compile of an image, and how urgent it is.
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

    /// Prepares every wasm layer of an image for every engine and runtime. One that has been removed meanwhile is no failure.
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

/// Says whether an image cannot be read because nobody has pulled what there would be to compile: it is for other machines, or a pull has
/// left its index behind alone, as CRI does when it finds nothing for the node's own platform. Once it is pulled there is another event.
fn is_of_no_concern(error: &ImageError, record: &ImageRecord) -> bool {
    match error {
        ImageError::NoPlatform { .. } => true,
        ImageError::MissingBlob { what: "manifest", digest, .. } => *digest != record.target,
        _ => false,
    }
}

/// Tells systemd, if it listens.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(error = &error as &dyn Error, "cannot tell systemd");
    }
}
