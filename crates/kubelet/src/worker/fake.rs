//! A runtime in memory for tests on virtual time: containers live as long as their script says, and everything that
//! is asked of it is written down with the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_machinery::clock::Clock;
use async_trait::async_trait;
use cri::Error;
use cri::messages::*;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::runtime::{Changed, POD_UID, Runtime, StreamRequest};

/// How a container behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script {
    /// It ends by itself after this time, with this code.
    pub life: Option<(Duration, i32)>,
    /// How long it takes to end when asked to.
    pub stop: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self { life: None, stop: Duration::ZERO }
    }
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, (PodSandbox, String)>,
    containers: BTreeMap<String, (ContainerStatus, String)>,
    calls: Vec<(i64, String)>,
    images: BTreeSet<String>,
    exec_code: i32,
    away: bool,
    made: u32,
}

pub(crate) struct FakeRuntime {
    clock: Clock,
    start: i64,
    tasks: TaskTracker,
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<Changed>,
    script: Mutex<Script>,
}

fn nanos(clock: &Clock) -> i64 {
    i64::try_from(clock.now().as_nanosecond()).expect("a time of a test")
}

impl FakeRuntime {
    pub fn new(clock: Clock, tasks: TaskTracker) -> Self {
        let state = State { images: [String::from("image:1")].into(), ..State::default() };
        let (start, changes) = (clock.now().as_second(), broadcast::Sender::new(64));
        Self { clock, start, tasks, state: Arc::new(Mutex::new(state)), changes, script: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How containers that are started from now on behave.
    pub fn set_script(&self, script: Script) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
    }

    /// What commands in containers exit with.
    pub fn set_exec_code(&self, code: i32) {
        self.lock().exec_code = code;
    }

    /// Nothing is answered any more, and the stream of changes ends; or all is well again.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
        if away && self.changes.send(Changed::Ended(String::new())).is_err() {
            tracing::debug!("nobody follows");
        }
    }

    /// Calls whose text begins so, as `SECONDS TEXT`, seconds since the test began.
    pub fn calls(&self, prefix: &str) -> Vec<String> {
        let state = self.lock();
        let fitting = state.calls.iter().filter(|(_, text)| text.starts_with(prefix));
        fitting.map(|(at, text)| format!("{at} {text}")).collect()
    }

    fn call(&self, text: impl Into<String>) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.lock();
        if state.away {
            return Err(Error::Unavailable("the fake is away".to_owned()));
        }
        let at = self.clock.now().as_second() - self.start;
        state.calls.push((at, text.into()));
        Ok(state)
    }

    /// A look that is not written down.
    fn look(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.lock();
        if state.away { Err(Error::Unavailable("the fake is away".to_owned())) } else { Ok(state) }
    }

    fn end_after(&self, id: &str, after: Duration, code: i32) {
        let (state, clock, changes, id) =
            (self.state.clone(), self.clock.clone(), self.changes.clone(), id.to_owned());
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            end(&state, &clock, &changes, &id, code);
        });
    }
}

fn end(state: &Mutex<State>, clock: &Clock, changes: &broadcast::Sender<Changed>, id: &str, code: i32) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((status, _)) = state.containers.get_mut(id) else { return };
    if status.state() != ContainerState::ContainerRunning {
        return;
    }
    status.set_state(ContainerState::ContainerExited);
    status.exit_code = code;
    status.finished_at = nanos(clock);
    if changes.send(Changed::Ended(id.to_owned())).is_err() {
        tracing::debug!("nobody follows");
    }
}

fn is_of(labels: &StringMap, uid: Option<&str>) -> bool {
    uid.is_none_or(|uid| labels.get(POD_UID).is_some_and(|known| known == uid))
}

fn missing(what: &str) -> Error {
    Error::NotFound(what.to_owned())
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<VersionResponse, Error> {
        drop(self.look()?);
        Ok(VersionResponse { runtime_name: "fake".to_owned(), ..VersionResponse::default() })
    }

    async fn status(&self) -> Result<RuntimeStatus, Error> {
        drop(self.look()?);
        Ok(RuntimeStatus::default())
    }

    async fn run_sandbox(&self, request: RunPodSandboxRequest) -> Result<String, Error> {
        let mut state = self.call("sandbox")?;
        let config = request.config.unwrap_or_default();
        state.made += 1;
        let id = format!("s{}", state.made);
        let sandbox = PodSandbox {
            id: id.clone(),
            metadata: config.metadata,
            created_at: nanos(&self.clock),
            labels: config.labels,
            ..PodSandbox::default()
        };
        let ip = format!("10.0.0.{}", state.made);
        state.sandboxes.insert(id.clone(), (sandbox, ip));
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let mut state = self.call(format!("stop sandbox {id}"))?;
        if let Some((sandbox, _)) = state.sandboxes.get_mut(id) {
            sandbox.set_state(PodSandboxState::SandboxNotready);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.call(format!("remove sandbox {id}"))?.sandboxes.remove(id);
        Ok(())
    }

    async fn sandbox(&self, id: &str) -> Result<PodSandboxStatus, Error> {
        let state = self.look()?;
        let (found, ip) = state.sandboxes.get(id).ok_or_else(|| missing(id))?;
        Ok(PodSandboxStatus {
            id: id.to_owned(),
            metadata: found.metadata.clone(),
            state: found.state,
            created_at: found.created_at,
            network: Some(PodSandboxNetworkStatus { ip: ip.clone(), additional_ips: Vec::new() }),
            ..PodSandboxStatus::default()
        })
    }

    async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<PodSandbox>, Error> {
        let state = self.look()?;
        let all = state.sandboxes.values().map(|(sandbox, _)| sandbox);
        Ok(all.filter(|sandbox| is_of(&sandbox.labels, uid)).cloned().collect())
    }

    async fn create_container(&self, request: CreateContainerRequest) -> Result<String, Error> {
        let mut state = self.call("create")?;
        let config = request.config.unwrap_or_default();
        state.made += 1;
        let id = format!("c{}", state.made);
        let status = ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            created_at: nanos(&self.clock),
            image: config.image,
            labels: config.labels,
            annotations: config.annotations,
            ..ContainerStatus::default()
        };
        state.containers.insert(id.clone(), (status, request.pod_sandbox_id));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        {
            let mut state = self.call("start")?;
            let (status, _) = state.containers.get_mut(id).ok_or_else(|| missing(id))?;
            status.set_state(ContainerState::ContainerRunning);
            status.started_at = nanos(&self.clock);
        }
        let script = *self.script.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((life, code)) = script.life {
            self.end_after(id, life, code);
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, seconds: i64) -> Result<(), Error> {
        drop(self.call(format!("stop {seconds}"))?);
        let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let wanted = self.script.lock().unwrap_or_else(PoisonError::into_inner).stop;
        tokio::time::sleep(wanted.min(grace)).await;
        let code = if wanted > grace { 137 } else { 0 };
        end(&self.state, &self.clock, &self.changes, id, code);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.call(format!("remove {id}"))?.containers.remove(id);
        Ok(())
    }

    async fn containers(&self, uid: Option<&str>) -> Result<Vec<Container>, Error> {
        let state = self.look()?;
        let all = state.containers.values().filter(|(status, _)| is_of(&status.labels, uid));
        let short = |(status, sandbox): &(ContainerStatus, String)| Container {
            id: status.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            state: status.state,
            labels: status.labels.clone(),
            annotations: status.annotations.clone(),
            ..Container::default()
        };
        Ok(all.map(short).collect())
    }

    async fn container(&self, id: &str, _: bool) -> Result<ContainerStatusResponse, Error> {
        let state = self.look()?;
        let (status, _) = state.containers.get(id).ok_or_else(|| missing(id))?;
        Ok(ContainerStatusResponse { status: Some(status.clone()), info: StringMap::new() })
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        drop(self.call(format!("reopen {id}"))?);
        Ok(())
    }

    async fn exec(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error> {
        let state = self.call(format!("exec {}", request.cmd.join(" ")))?;
        Ok(ExecSyncResponse { exit_code: state.exec_code, ..ExecSyncResponse::default() })
    }

    async fn open_stream(&self, wanted: StreamRequest) -> Result<String, Error> {
        drop(self.call(format!("open {wanted:?}"))?);
        Err(Error::NotFound("a fake serves no streams".to_owned()))
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, Error> {
        let state = self.look()?;
        Ok(state.images.get(name).map(|id| Image { id: id.clone(), ..Image::default() }))
    }

    async fn pull(&self, request: PullImageRequest) -> Result<String, Error> {
        drop(self.call(format!("pull {}", request.image.unwrap_or_default().image))?);
        Err(Error::Failed { code: "Unknown", message: "no such image".to_owned() })
    }

    async fn images(&self) -> Result<Vec<Image>, Error> {
        drop(self.look()?);
        Ok(Vec::new())
    }

    async fn changes(
        &self,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<mpsc::Receiver<Changed>, Error> {
        drop(self.look()?);
        let (sender, receiver) = mpsc::channel(64);
        let mut changes = self.changes.subscribe();
        let state = self.state.clone();
        tasks.spawn(async move {
            let follow = async {
                while let Ok(changed) = changes.recv().await {
                    let away = state.lock().unwrap_or_else(PoisonError::into_inner).away;
                    if away || sender.send(changed).await.is_err() {
                        return;
                    }
                }
            };
            stop.run_until_cancelled(follow).await;
        });
        Ok(receiver)
    }
}
