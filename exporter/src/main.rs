//! Parse, attach, drop privileges, serve.

use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::future::BoxFuture;
use mediasoup_exporter::capture;
use mediasoup_exporter::check;
use mediasoup_exporter::collect::{
    self, Board, Connections, Host, LAST_LINES, Ledgers, Orders, Pace, Parts, Site, Views,
};
use mediasoup_exporter::config::{self, Command, Config};
use mediasoup_exporter::config_check;
use mediasoup_exporter::entropy;
use mediasoup_exporter::explain;
use mediasoup_exporter::exposition::{Scrape, reference};
use mediasoup_exporter::files::{Files, Members, Reload, Take};
use mediasoup_exporter::history::History;
use mediasoup_exporter::host::capabilities::{self, Needs};
use mediasoup_exporter::journal::{self, Journal};
use mediasoup_exporter::kernel::{self, Counting, Method};
use mediasoup_exporter::labels::{Database, Renewal};
use mediasoup_exporter::observer::{self, AGENT_SCRIPT, Observer};
use mediasoup_exporter::printed::print;
use mediasoup_exporter::resolver::{self, Questions, Work};
use mediasoup_exporter::sandbox::{Sandbox, Task};
use mediasoup_exporter::service;
use mediasoup_exporter::signals::{self, Signals};
use mediasoup_exporter::startup::{self, Keys, Named, Prepared, Role};
use mediasoup_exporter::state::{Event, Gone, SourceId};
use mediasoup_exporter::telemetry::{self, Telemetry, VERSION};
use mediasoup_exporter::top;
use mediasoup_exporter::views::Setting;
use mediasoup_exporter::web;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// Changes of what servers tell reach the kernel after so long, all that came meanwhile together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A step of the history.
const STEP: Duration = Duration::from_secs(5);
/// For tasks to end by themselves after the signal; together with what follows, less than a second.
const PATIENCE: Duration = Duration::from_millis(600);
/// For what then still runs on the runtime's threads.
const LAST_PATIENCE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    mediasoup_exporter::allocator::keep_no_holes();
    let command = match Command::from_process(&VERSION) {
        Ok(command) => command,
        Err(invalid) => {
            eprintln!("mediasoup-exporter: {invalid}");
            return ExitCode::from(2);
        }
    };
    let result = match command {
        Command::Run(config) => run(&config),
        Command::Print(text) => print(&text),
        Command::PrintAgent => print(AGENT_SCRIPT),
        Command::Unpin(directory) => unpin(&directory),
        Command::Top(options) => top::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Check(options) => return check::run(&options),
        Command::Journal(options) => journal::read::run(&options),
        Command::Capture(options) => capture::run(&options),
        Command::GuardFilters(exporter) => guard(&exporter),
        Command::PrintMetricsReference => {
            print(&format!("{}\n## `self`\n\n{}", reference::markdown(), telemetry::reference()))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mediasoup-exporter: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn unpin(directory: &Path) -> anyhow::Result<()> {
    let kernel::Removed { links, tables, filters } = kernel::remove_leftovers(directory)?;
    let there = if directory.exists() { "" } else { " (not there)" };
    print(&format!(
        "removed from {}{there}: programs {links}, directories of tables {tables}; clsact filters of this network \
         namespace: {filters}\n",
        directory.display()
    ))
}

fn guard(exporter: &str) -> anyhow::Result<()> {
    let needs = Needs { programs: true, capture: false, observers: false };
    capabilities::drop_all_but(needs).context("drop privileges")?;
    kernel::guard_filters(exporter)
}

/// Programs that an earlier run pinned would count packets before this one's see them.
fn warn_of_leftovers() {
    let links = kernel::count_leftovers(Path::new(config::DEFAULT_PIN));
    if links > 0 {
        tracing::warn!(
            "{links} programs that an earlier run pinned in {0} still count, and can hide packets from this one: give \
             --pin {0} again, or take them away with --unpin",
            config::DEFAULT_PIN
        );
    }
}

fn run(config: &Config) -> anyhow::Result<()> {
    signals::ignore_hangup();
    startup::begin_logging(&config.log);
    entropy::wait();
    let prepared = startup::prepare(config)?;
    if config.check {
        return print(&config_check::describe(config, &prepared)?);
    }
    signals::hold();
    startup::allow_descriptors();
    if config.pin.is_none() {
        warn_of_leftovers();
    }
    // First: who cannot serve should not have counted.
    let listeners = match config.systemd_socket {
        true => web::activated()?,
        false => {
            let bind = |address: &_| web::bind(*address, config.listen_is_default);
            config.listen.iter().map(bind).collect::<anyhow::Result<Vec<_>>>()?
        }
    };
    let counting = Arc::new(Counting::start(&prepared.counting)?);
    // Before the runtime has threads: capabilities belong to threads.
    let method = counting.method();
    let needs = Needs {
        programs: method == Method::Ebpf,
        capture: method == Method::Capture,
        observers: true,
    };
    let kept = capabilities::drop_all_but(needs).context("drop privileges")?;
    tracing::debug!("privileges kept: {kept:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let sandbox = Sandbox::new(config.sandbox).context("--sandbox")?;
    let serving =
        sandbox.runtime(Task::Serve).context("start the runtime of threads that serve")?;
    let asking =
        sandbox.runtime(Task::Ask).context("start the runtime of threads that ask for names")?;
    let exporter = Exporter::assemble(counting, listeners, prepared, &serving)?;
    let result = runtime.block_on(exporter.serve(sandbox, serving.handle(), asking.handle()));
    asking.shutdown_background();
    serving.shutdown_timeout(LAST_PATIENCE / 2);
    runtime.shutdown_timeout(LAST_PATIENCE / 2);
    result
}

/// All parts, connected but not running.
struct Exporter {
    counting: Arc<Counting>,
    observer: Arc<Observer>,
    host: Arc<Host>,
    books: Ledgers,
    names: Option<Work>,
    keys: Arc<Mutex<Keys>>,
    files: Vec<Named>,
    web_files: Option<(PathBuf, Members)>,
    listeners: Vec<TcpListener>,
    access: web::Access,
    front: web::Front,
    telemetry: Arc<Telemetry>,
    board: Arc<Board>,
    views: Option<Views>,
    /// There are views, or a journal.
    keeps_history: bool,
    /// For the scrape thread to end.
    ending: Duration,
}

impl Exporter {
    fn assemble(
        counting: Arc<Counting>,
        listeners: Vec<TcpListener>,
        prepared: Prepared,
        serving: &Runtime,
    ) -> anyhow::Result<Self> {
        let Prepared {
            access,
            front,
            web_files,
            policy,
            keys,
            geo,
            files,
            counting: options,
            ports,
            observer,
            ledger,
            history,
            views,
            journal,
            thresholds,
            host_name,
            hidden,
        } = prepared;
        let journal = journal.map(|options| {
            let folder = options.folder.display();
            Journal::start(&options, &host_name).with_context(|| format!("--journal {folder}"))
        });
        let journal = journal.transpose()?;
        let keeps_journal = journal.is_some();
        let (telemetry, board) = (Arc::new(Telemetry::new()), Arc::<Board>::default());
        let readers = Some(serving.handle().clone());
        let observer = Observer::new(observer::Options { readers, ..observer });
        let (questions, names): (Option<Questions>, Option<Work>) =
            policy.names.then(resolver::questions).unzip();
        let books = Ledgers::new(Parts {
            counting: counting.clone(),
            observer: observer.clone(),
            max_series: ledger.max_series,
            history: history.map(History::new),
            journal,
            thresholds,
            scrape: Scrape::new(ledger, policy, geo),
            questions,
            workers: options.workers.clone(),
            ports,
            telemetry: telemetry.clone(),
            board: board.clone(),
        });
        let keeps_history = history.is_some();
        let ending = if keeps_journal { LAST_PATIENCE + LAST_LINES } else { LAST_PATIENCE };
        let views = views.then(|| Views::new(Setting { host: host_name, thresholds, hidden }));
        let (ports, workers) = (counting.ownership().clone(), options.workers);
        let host = Arc::new(Host { ports, workers, observer: observer.clone() });
        Ok(Self {
            counting,
            observer,
            host,
            books,
            names,
            keys: Arc::new(Mutex::new(keys)),
            files,
            web_files,
            listeners,
            access,
            front,
            telemetry,
            board,
            views,
            keeps_history,
            ending,
        })
    }

    /// Until a signal asks to end.
    async fn serve(
        self,
        sandbox: Sandbox,
        serving: &Handle,
        asking: &Handle,
    ) -> anyhow::Result<()> {
        let Self { counting, observer, host, books, names, keys, files, web_files, .. } = self;
        let Self {
            listeners, access, front, telemetry, board, views, keeps_history, ending, ..
        } = self;
        let mut signals = Signals::listen()?;
        let listeners = {
            // Whose threads accept.
            let _serving = serving.enter();
            let listeners = listeners.into_iter().map(tokio::net::TcpListener::from_std);
            listeners.collect::<Result<Vec<_>, _>>().context("listen")?
        };
        let step = keeps_history.then_some(STEP);
        let pace = Pace { step, ..Pace::default() };
        let (orders, thread) = collect::start(books, pace).context("start the scrape thread")?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();

        tasks.spawn(counting.clone().follow(stop_of(&stopped)));
        let changed = Arc::new(Notify::new());
        tasks.spawn(observer.clone().run(sink(orders.clone(), changed.clone()), stopped.clone()));
        orders.observe(host.clone());
        tasks.spawn(tell(counting.clone(), orders.clone(), host, changed, stop_of(&stopped)));
        if let Some(work) = names {
            let resolving = resolve(work, orders.clone(), Handle::current(), stop_of(&stopped));
            tasks.spawn_on(resolving, asking);
        }
        let (last, attached) = (orders.clone(), counting.clone());
        tasks.spawn(rotate(keys.clone(), orders.clone(), stop_of(&stopped)));
        let mut files = watched(files, &access, &keys, &orders);
        if let Some((path, members)) = web_files {
            let (front, again) = (front.clone(), path.clone());
            let take = Box::new(move || startup::renew_web_config(&front, &again));
            files.watch_together(startup::WEB_CONFIG, path, members, take);
        }
        files.paths().for_each(|path| telemetry.reloaded(path, Some(SystemTime::now())));
        let reloads = telemetry.clone();
        let mut hangup = signal(SignalKind::hangup()).context("listen for signals")?;
        let stopping = stop_of(&stopped);
        tasks.spawn(async move {
            let report = move |reload: Reload<'_>| reloads.reloaded(reload.path, reload.taken);
            files.follow(&mut hangup, report, stopping).await;
        });
        let ready = board.clone();
        telemetry.sandboxed(&sandbox);
        let site =
            Site { orders: orders.clone(), board, counting, observer, telemetry, sandbox, views };
        let limits = web::Limits::default();
        let scheme = if front.is_tls() { "https" } else { "http" };
        for listener in &listeners {
            let address = listener.local_addr().context("listen")?;
            tracing::info!("serving {scheme}://{address}/metrics");
        }
        tasks.spawn(report(orders, ready, stop_of(&stopped)));
        let requests = web::serve(listeners, Arc::new(site), front, limits, stop_of(&stopped));
        tasks.spawn_on(requests, serving);
        // Nothing but a fault of its own ends a task or the scrape thread before the signal.
        let fault = loop {
            tokio::select! {
                () = signals.received() => break None,
                Some(ended) = tasks.join_next() => if let Err(error) = ended {
                    break Some(anyhow::anyhow!("a task failed: {error}"));
                },
                () = tokio::time::sleep(Duration::from_secs(1)) => if thread.is_finished() {
                    break Some(anyhow::anyhow!("the scrape thread failed"));
                },
            }
        };
        service::stopping();
        let _ = stop.send(true);
        last.end();
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(PATIENCE, all_ended).await.is_err() {
            tasks.shutdown().await;
        }
        // The scrape thread may be in the middle of a reading, and then would detach too late.
        attached.detach();
        let end = std::time::Instant::now() + ending;
        while !thread.is_finished() && std::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fault.map_or(Ok(()), Err)
    }
}

/// Tells the service manager when there is something to scrape, and from then on that there is.
async fn report(orders: Orders, board: Arc<Board>, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    let told = async {
        while !board.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        service::ready();
        let Some(pause) = service::pause() else { return std::future::pending().await };
        loop {
            // The scrape thread answers, or it is silent here, too.
            if orders.answers().await {
                service::alive();
            }
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = &mut stop => {}
        () = told => {}
    }
}

fn stop_of(stopped: &watch::Receiver<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stopped = stopped.clone();
    async move {
        // An error means that the sender is gone, which is the end, too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// Passes on what servers tell, and says when connections changed.
fn sink(
    orders: Orders,
    changed: Arc<Notify>,
) -> impl Fn(SourceId, Vec<Event>) -> BoxFuture<'static, ()> + Send + Sync + 'static {
    move |source, events| {
        let (orders, changed) = (orders.clone(), changed.clone());
        Box::pin(async move {
            let connections = events.iter().any(concerns_connections);
            orders.tell(source, events).await;
            if connections {
                changed.notify_one();
            }
        })
    }
}

fn concerns_connections(event: &Event) -> bool {
    matches!(
        event,
        // A worker by another name is known before it binds a port, if its server tells of it first.
        Event::Worker { .. }
            | Event::Transport(_)
            | Event::TransportState { .. }
            | Event::Met(_)
            | Event::Router { .. }
            | Event::Gone(Gone::Transport(_) | Gone::Router(_) | Gone::Worker(_))
            | Event::Synced
            | Event::Forget
    )
}

/// First and longest pause before connections that are not believed are looked at again: the host may
/// say only then whose their ports are.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Tells the kernel which connections the servers know, soon after that changed.
async fn tell(
    counting: Arc<Counting>,
    orders: Orders,
    host: Arc<Host>,
    changed: Arc<Notify>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let mut failing = false;
    let mut again = None;
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = changed.notified() => {
                again = None;
                counting.look_soon();
            }
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {
                orders.observe(host.clone());
            }
        }
        tokio::time::sleep(DEBOUNCE).await;
        let told = tokio::select! {
            () = &mut stop => return,
            told = orders.connections() => told,
        };
        let Some(Connections { told, refused }) = told else { return };
        let longer = again.map_or(AGAIN.0, |pause: Duration| (pause * 2).min(AGAIN.1));
        again = (refused > 0).then_some(longer);
        let counting = counting.clone();
        let told = tokio::task::spawn_blocking(move || counting.tell(&told));
        match told.await {
            Ok(Ok(())) => failing = false,
            Ok(Err(error)) if !failing => {
                failing = true;
                tracing::warn!("tell the kernel which connections are known: {error:#}");
            }
            Ok(Err(_)) => {}
            Err(error) => tracing::error!("tell the kernel which connections are known: {error}"),
        }
    }
}

async fn resolve(work: Work, orders: Orders, opener: Handle, stop: impl Future<Output = ()>) {
    tokio::select! {
        () = stop => {}
        () = resolver::run(work, opener, |ip, name| orders.name(ip, name)) => {}
    }
}

/// Sleep ends late where the host was suspended or its clock set meanwhile.
const CLOCK_LOOK: Duration = Duration::from_secs(10);

/// Changes the key of pseudonyms at the end of its period.
async fn rotate(keys: Arc<Mutex<Keys>>, orders: Orders, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    let keys = || keys.lock().unwrap_or_else(PoisonError::into_inner);
    let mut failing = false;
    loop {
        let Some(rest) = keys().rest() else { return };
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(rest.min(CLOCK_LOOK)) => {}
        }
        match keys().rotate() {
            Ok(None) => {}
            Ok(Some(renewal)) => {
                failing = false;
                tracing::info!(
                    "--deidentify.rotate: who comes from now on is shown by another key"
                );
                orders.renew(renewal);
            }
            Err(error) if !failing => {
                failing = true;
                tracing::error!("--deidentify.rotate: {error:#}; the key before holds on");
            }
            Err(_) => {}
        }
    }
}

/// Files that flags name, each with whom its content is for.
fn watched(
    named: Vec<Named>,
    access: &web::Access,
    keys: &Arc<Mutex<Keys>>,
    orders: &Orders,
) -> Files {
    let mut files = Files::default();
    for Named { role, path, identity } in named {
        let (access, keys, orders) = (access.clone(), keys.clone(), orders.clone());
        let take: Take = Box::new(move |content| {
            match role {
                Role::Token => startup::renew_token(&access, content)?,
                Role::Key => {
                    let mut keys = keys.lock().unwrap_or_else(PoisonError::into_inner);
                    orders.renew(keys.replace(&content)?);
                }
                Role::Database(at) => {
                    orders.renew(Renewal::Database(at, Database::new(content)?));
                }
            }
            Ok(())
        });
        files.watch(role.flag(), path, identity, take);
    }
    files
}
