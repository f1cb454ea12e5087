//! Messages of containerd 2.3 and 2.4 to a shim, recorded from these and played to ours. They are the bytes for `start`, and each request
//! of a container's life, in their order. So the behaviour of newer daemons is tested without them.
//!
//! `replay/record` has made the recordings. The test changes only the values of a message that belong to another place: bundle, root
//! filesystem, streams, namespace, sockets. Fields that our definitions do not know go along as they are.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use containerd_shim_protos::api::{
    ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest,
    PidsResponse, StartResponse, StateRequest, StateResponse, StatsResponse, Status, WaitResponse,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use prewasi_test::container::Bundle;
use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually, home};
use tokio::task::JoinHandle;
use ttrpc::r#async::Client;
use ttrpc::{Code, Request, Response};

use crate::busybox;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(container_of_ctr_2_3),
        case!(container_of_ctr_2_4),
        case!(pod_of_cri_2_3, needs Busybox),
        case!(pod_of_cri_2_4, needs Busybox),
    ]
}

const LIMIT: Duration = Duration::from_secs(20);
/// Length of the head of a frame: length of the message, number of the stream, type, flags.
const HEAD: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Where the number of the connection begins in that of a recorded stream.
const CONNECTION: u32 = 16;

/// The recorded messages of one shim.
struct Recording {
    /// Version of the containerd.
    version: &'static str,
    arguments: &'static str,
    start: &'static [u8],
    /// The recorded input of `-info`.
    info: &'static [u8],
    frames: &'static [u8],
}

macro_rules! recording {
    ($version:literal, $folder:literal) => {
        Recording {
            version: $version,
            arguments: include_str!(concat!("replay/", $folder, "/arguments")),
            start: include_bytes!(concat!("replay/", $folder, "/start.pb")),
            info: include_bytes!(concat!("replay/", $folder, "/info.pb")),
            frames: include_bytes!(concat!("replay/", $folder, "/frames")),
        }
    };
}

/// A frame that was recorded.
enum Frame {
    Request(Request),
    Response(Response),
}

impl Recording {
    /// Takes the frames apart, each with the number of its stream.
    fn frames(&self) -> Vec<(u32, Frame)> {
        let mut rest = self.frames;
        let mut frames = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<HEAD>() {
            let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let (message, next) = tail.split_at(usize::try_from(number(0)).expect("a frame is short"));
            let frame = match head[8] {
                REQUEST => Frame::Request(Request::parse_from_bytes(message).expect("a request was recorded")),
                RESPONSE => Frame::Response(Response::parse_from_bytes(message).expect("an answer was recorded")),
                other => panic!("frames of type {other} are not played"),
            };
            frames.push((number(4), frame));
            rest = next;
        }
        assert!(rest.is_empty(), "the last frame is whole");
        frames
    }

    /// Lists the requests of a method.
    fn requests<M: Message>(&self, method: &str) -> Vec<M> {
        let of = |(_, frame)| match frame {
            Frame::Request(request) if request.method == method => Some(parse(&request.payload)),
            _ => None,
        };
        self.frames().into_iter().filter_map(of).collect()
    }
}

/// A shim that is played to.
struct Played {
    namespace: Namespace,
    address: String,
    /// Connections, by the number that they have in the recording.
    clients: HashMap<u32, Client>,
    bundles: HashMap<String, Bundle>,
    /// Answers that have not been compared, by the number of the recorded stream.
    pending: HashMap<u32, JoinHandle<Response>>,
    methods: HashMap<u32, String>,
    /// Questions for figures that were asked while a container was being created: CRI has a list of its own.
    early: HashSet<u32>,
}

fn parse<M: Message>(bytes: &[u8]) -> M {
    M::parse_from_bytes(bytes).expect("the message is of this type")
}

fn bytes(message: &impl Message) -> Vec<u8> {
    message.write_to_bytes().expect("a message can be written")
}

/// Starts the shim as the recording has it, and returns the address that it answers.
fn start(recording: &Recording, namespace: &Namespace, bundle: &Path) -> String {
    let daemon = namespace.daemon();
    let mut params: BootstrapParams = parse(recording.start);
    assert!(params.containerd_version.trim_start_matches('v').starts_with(recording.version), "{params:?}");
    let place = |path: PathBuf| path.display().to_string();
    let own = place(daemon.address());
    params.containerd_ttrpc_address = format!("{own}.ttrpc");
    params.containerd_grpc_address.clone_from(&own);
    params.namespace = namespace.name().to_owned();
    params.socket_dir = Some(place(namespace.folder().join("s")));
    let mut arguments: Vec<&str> = recording.arguments.lines().collect();
    for (flag, value) in [("-namespace", namespace.name()), ("-address", &own)] {
        let at = arguments.iter().position(|argument| *argument == flag).expect("it was given");
        arguments[at + 1] = value;
    }
    let output = called(namespace, bundle, &arguments, &bytes(&params));
    parse::<BootstrapResult>(&output).address
}

/// Calls the shim's program in the bundle, and returns its output.
fn called(namespace: &Namespace, bundle: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = namespace.daemon().command(home::program("containerd-shim-wasmtime-v1"));
    command.args(arguments).current_dir(bundle).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the shim was built");
    child.stdin.take().expect("it is piped").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output.stdout
}

impl Played {
    /// Puts the values of this container into a request.
    fn adapt(&self, request: &mut Request) {
        for pair in request.metadata.iter_mut().filter(|pair| pair.key == "containerd-namespace-ttrpc") {
            self.namespace.name().clone_into(&mut pair.value);
        }
        match request.method.as_str() {
            "Create" => {
                let mut create: CreateTaskRequest = parse(&request.payload);
                assert!(!create.rootfs.is_empty() && !create.bundle.is_empty(), "{create:?}");
                self.bundles[&create.id].put_into(&mut create);
                request.payload = bytes(&create);
            }
            "Exec" => {
                let mut exec: ExecProcessRequest = parse(&request.payload);
                let mut own = CreateTaskRequest::default();
                self.bundles[&exec.id].put_into(&mut own);
                (exec.stdin, exec.stdout, exec.stderr) = (own.stdin, own.stdout, own.stderr);
                request.payload = bytes(&exec);
            }
            _ => {}
        }
    }

    /// Returns the connection of a recorded stream, which is made when it is first asked for.
    async fn client(&mut self, stream: u32) -> Client {
        let number = stream >> CONNECTION;
        if !self.clients.contains_key(&number) {
            let client = Client::connect(&self.address).await.expect("the shim serves");
            self.clients.insert(number, client);
        }
        self.clients[&number].clone()
    }

    /// Sends a request, and lets somebody wait for the answer.
    async fn send(&mut self, stream: u32, mut request: Request) {
        self.adapt(&mut request);
        let client = self.client(stream).await;
        if request.method == "Delete" {
            // The end of a process has told containerd that it can do this.
            let DeleteRequest { id, exec_id, .. } = parse(&request.payload);
            has_stopped(&client, &id, &exec_id).await;
        }
        let is_creating = self.pending.keys().any(|stream| self.methods[stream] == "Create");
        if request.method == "Stats" && is_creating {
            self.early.insert(stream);
        }
        self.methods.insert(stream, request.method.clone());
        request.timeout_nano = LIMIT.as_nanos().try_into().expect("the limit is short");
        let answer = async move { client.request(request).await.unwrap_or_else(|error| refusal(&error)) };
        self.pending.insert(stream, tokio::spawn(answer));
    }

    /// Waits for the answer to the request on a stream, and compares it with the recorded one: the code, and the values that a client uses.
    async fn compare(&mut self, stream: u32, recorded: &Response) {
        let pending = self.pending.remove(&stream).expect("each answer has a request");
        let answer = tokio::time::timeout(LIMIT, pending).await.expect("it is answered").expect("nobody panics");
        let method = &self.methods[&stream];
        let (code, expected) = (answer.status.code(), recorded.status.code());
        if self.early.contains(&stream) {
            // It is a matter of chance whether there are any.
            assert!([Code::OK, Code::NOT_FOUND].contains(&code), "{}", answer.status.message());
            return;
        }
        assert_eq!(code, expected, "{method}: {} instead of {}", answer.status.message(), recorded.status.message());
        let (now, then) = (&answer.payload[..], &recorded.payload[..]);
        match method.as_str() {
            "Connect" => {
                let [now, then] = [now, then].map(parse::<ConnectResponse>);
                assert!(now.shim_pid > 0 && now.task_pid > 0, "{now:?}");
                assert_eq!(now.version, then.version);
            }
            "Pids" => assert!(!parse::<PidsResponse>(now).processes.is_empty()),
            "Stats" => {
                let kinds = [now, then].map(|payload| parse::<StatsResponse>(payload).stats.type_url.clone());
                let is_known = |kind: &str| kind.ends_with(".Metrics");
                assert!(kinds.iter().all(|kind| is_known(kind)), "{kinds:?}");
            }
            "Wait" => {
                let [now, then] = [now, then].map(|payload| parse::<WaitResponse>(payload).exit_status);
                assert_eq!(now, then, "exit status");
            }
            "Delete" => {
                let [now, then] = [now, then].map(parse::<DeleteResponse>);
                assert_eq!(now.exit_status, then.exit_status);
                assert!(now.pid > 0 && now.exited_at.is_some(), "{now:?}");
            }
            "State" => {
                let [now, then] = [now, then].map(parse::<StateResponse>);
                assert_eq!(now.terminal, then.terminal);
                let is_alive = |state: &StateResponse| state.status == Status::RUNNING.into();
                let has_ended = |state: &StateResponse| state.status == Status::STOPPED.into();
                // A program ends in its own time, before or after the question.
                if !(is_alive(&now) && has_ended(&then) || has_ended(&now) && is_alive(&then)) {
                    assert_eq!((now.status, now.exit_status), (then.status, then.exit_status));
                }
            }
            "Create" => assert!(parse::<CreateTaskResponse>(now).pid > 0),
            "Start" => assert!(parse::<StartResponse>(now).pid > 0),
            _ => assert_eq!(now, then, "{method}"),
        }
    }
}

/// Waits until a process has ended.
async fn has_stopped(client: &Client, id: &str, exec_id: &str) {
    eventually("the end of the process", LIMIT, async || {
        let state = StateRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..StateRequest::default() };
        let request = Request {
            service: "containerd.task.v3.Task".to_owned(),
            method: "State".to_owned(),
            payload: bytes(&state),
            ..Request::default()
        };
        let response = client.request(request).await.map_err(|error| error.to_string())?;
        let status = parse::<StateResponse>(&response.payload).status;
        if status == Status::STOPPED.into() { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

/// Makes an answer of an error.
fn refusal(error: &ttrpc::Error) -> Response {
    match error {
        ttrpc::Error::RpcStatus(status) => Response { status: Some(status.clone()).into(), ..Response::default() },
        other => panic!("no answer: {other}"),
    }
}

/// Plays a recording with containers of these images, in the order of their creation, and returns the output of each.
async fn play(
    namespace: &Namespace,
    recording: &Recording,
    images: &[(&Imported, &[&str])],
    annotations: &[(&str, String)],
) -> HashMap<String, String> {
    let created: Vec<CreateTaskRequest> = recording.requests("Create");
    assert_eq!(created.len(), images.len());
    let mut bundles = HashMap::new();
    for (create, (image, args)) in created.iter().zip(images) {
        let container = namespace.container(&image.name).id(&create.id).args(args);
        let container = annotations.iter().fold(container, |all, (name, value)| all.annotation(name, value));
        bundles.insert(create.id.clone(), container.bundle().await);
    }
    let first = bundles[&created[0].id].path.clone();
    let info = called(namespace, &first, &["-info"], recording.info);
    assert_eq!(parse::<RuntimeInfo>(&info).name, namespace.runtime());
    let address = start(recording, namespace, &first);
    let socket = PathBuf::from(address.strip_prefix("unix://").expect("it is a socket of unix"));
    assert!(socket.starts_with(namespace.folder().join("s")), "{}", socket.display());
    let (clients, pending, methods) = (HashMap::new(), HashMap::new(), HashMap::new());
    let (namespace, early) = (namespace.clone(), HashSet::new());
    let mut played = Played { namespace, address, clients, bundles, pending, methods, early };
    for (stream, frame) in recording.frames() {
        match frame {
            Frame::Request(request) => played.send(stream, request).await,
            Frame::Response(response) => played.compare(stream, &response).await,
        }
    }
    assert!(played.pending.is_empty(), "each request has an answer: {:?}", played.pending.keys());
    drop(played.clients);
    eventually("the end of the shim", LIMIT, async || {
        if socket.exists() { Err(format!("{} is there", socket.display())) } else { Ok(()) }
    })
    .await;
    let mut printed = HashMap::new();
    for (id, bundle) in played.bundles {
        printed.insert(id, bundle.stdout());
        bundle.remove().await;
    }
    printed
}

fn demo(namespace: &Namespace) -> Imported {
    let program = Program::guest(namespace, DEMO);
    image::import(namespace, "replay", |image| image.layer(program.layer("demo.wasm")))
}

/// `ctr` runs a container, lists its processes, asks for figures, executes a process, pauses, resumes, kills and deletes.
async fn container(namespace: Namespace, recording: Recording) {
    let image = demo(&namespace);
    let printed = play(&namespace, &recording, &[(&image, &["sleep", "1000"])], &[]).await;
    let printed: Vec<_> = printed.into_values().collect();
    assert_eq!(printed, ["sleeping 1000\nexecuted\n"]);
}

/// CRI runs a pod with one container, asks for figures each second, executes a process, and stops.
async fn pod(namespace: Namespace, recording: Recording) {
    let (pause, image) = (busybox::image(&namespace), demo(&namespace));
    let created: Vec<CreateTaskRequest> = recording.requests("Create");
    let sandbox = created[0].id.clone();
    let annotations = [("io.kubernetes.cri.sandbox-id", sandbox.clone())];
    let programs: [(&Imported, &[&str]); 2] = [(&pause, &["sleep", "1000"]), (&image, &["sleep", "1000"])];
    let printed = play(&namespace, &recording, &programs, &annotations).await;
    assert_eq!((&*printed[&sandbox], &*printed[&created[1].id]), ("", "sleeping 1000\nexecuted\n"));
    assert!(recording.requests::<containerd_shim_protos::api::StatsRequest>("Stats").len() > 1, "CRI polls");
}

/// A container of `ctr` lives as containerd 2.3 has it.
async fn container_of_ctr_2_3(namespace: Namespace) {
    container(namespace, recording!("2.3", "ctr-2.3")).await;
}

/// A container of `ctr` lives as containerd 2.4 has it.
async fn container_of_ctr_2_4(namespace: Namespace) {
    container(namespace, recording!("2.4", "ctr-2.4")).await;
}

/// A pod lives as the CRI plugin of containerd 2.3 has it.
async fn pod_of_cri_2_3(namespace: Namespace) {
    pod(namespace, recording!("2.3", "cri-2.3")).await;
}

/// A pod lives as the CRI plugin of containerd 2.4 has it.
async fn pod_of_cri_2_4(namespace: Namespace) {
    pod(namespace, recording!("2.4", "cri-2.4")).await;
}
