//! The environment: one Redis, three replicas, publishers and clients, and a proxy on every path between them. Never
//! judges and never injects a fault.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};
use tempfile::TempDir;
use tickgate::tasks::Tasks;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, watch},
    time::sleep,
};

use crate::{
    cast::{self, Casting},
    dice::Dice,
    follower::{ClientOrder, ClientParameters},
    gateway::{self, ReplicaUsage, ServeProcess},
    publisher::Traffic,
    record::{Diary, SharedDiary, SharedLedger, TestedChannel},
    support::{
        self,
        proxy::Proxy,
        redis::{RedisServer, url_of},
    },
};

pub const REPLICAS: usize = 3;

/// As many concurrent stages as there are cores, however many tests run, because results are judged by time.
static PLACES: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores))
});

/// One place for a replica: its processes change, its addresses stay.
pub struct ReplicaPlace {
    pub process: AsyncMutex<ServeProcess>,
    /// Between the replica and Redis.
    pub to_redis: Proxy,
    /// Between clients and the replica.
    pub to_clients: Proxy,
    /// The resources of the process when it had just started.
    pub fresh: Mutex<ReplicaUsage>,
}

pub struct ChaosStage {
    pub dir: TempDir,
    settings: PathBuf,
    /// The program of replicas that start from now on.
    pub program: Mutex<PathBuf>,
    /// The environment variables of the replicas.
    variables: Vec<(String, String)>,
    pub redis: AsyncMutex<RedisServer>,
    pub places: Vec<ReplicaPlace>,
    pub operations: Arc<RwLock<Vec<SocketAddr>>>,
    pub ledger: SharedLedger,
    pub clients: Mutex<Vec<StageClient>>,
    pub traffic: Arc<Traffic>,
    pub tasks: Tasks,
    publishing: Mutex<Option<Tasks>>,
    orders: Mutex<u64>,
    _place: OwnedSemaphorePermit,
}

/// A client and its orders.
pub struct StageClient {
    pub name: String,
    pub channels: Vec<TestedChannel>,
    pub diary: SharedDiary,
    pub orders: watch::Sender<ClientOrder>,
    /// It has left permanently: its diary counts, but no one waits for it.
    pub dismissed: bool,
}

impl ChaosStage {
    /// A Redis and three replicas, without clients or traffic.
    pub async fn set(redis: RedisServer, defect: Option<&str>, variables: &[(&str, &str)]) -> Arc<Self> {
        Self::set_with(redis, &support::program(), defect, variables).await
    }

    /// The same with replicas of this program.
    pub async fn set_with(
        redis: RedisServer,
        program: &Path,
        defect: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Arc<Self> {
        let place = Arc::clone(&PLACES).acquire_owned().await.expect("never closed");
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut variables: Vec<_> = variables.iter().map(owned).collect();
        // Only builds with the feature `simulation` read it.
        variables.extend(defect.map(|defect| ("TICKGATE_TEST_DEFECT".to_owned(), defect.to_owned())));
        let dir = TempDir::with_prefix("tickgate-chaos-").expect("a temporary directory");
        let settings = dir.path().join("tickgate.toml");
        std::fs::write(&settings, cast::SETTINGS).expect("the settings");
        let mut places = Vec::new();
        for number in 0..REPLICAS {
            let to_redis = Proxy::start(redis.port()).await;
            let log = dir.path().join(format!("replica-{number}.log"));
            let process =
                ServeProcess::start(program, &url_of("tickgate", to_redis.address), &settings, &log, &variables);
            let to_clients = Proxy::start(process.public.port()).await;
            let fresh = Mutex::new(process.footprint());
            places.push(ReplicaPlace { process: AsyncMutex::new(process), to_redis, to_clients, fresh });
        }
        let mut operations = Vec::new();
        for place in &places {
            operations.push(place.process.lock().await.operations);
        }
        let operations = Arc::new(RwLock::new(operations));
        let ledger = SharedLedger::default();
        let stage = Arc::new(Self {
            settings,
            program: Mutex::new(program.to_owned()),
            variables,
            redis: AsyncMutex::new(redis),
            places,
            traffic: Traffic::new(cast::channels_of_all(), Arc::clone(&operations), Arc::clone(&ledger)),
            operations,
            ledger,
            clients: Mutex::default(),
            tasks: Tasks::new(),
            publishing: Mutex::default(),
            orders: Mutex::new(0),
            _place: place,
            dir,
        });
        for number in 0..REPLICAS {
            stage.ready(number).await;
            *stage.places[number].fresh.lock() = stage.places[number].process.lock().await.footprint();
        }
        stage
    }

    /// Waits until a replica has both links.
    pub async fn ready(&self, number: usize) {
        eventually("a replica to be ready", Duration::from_secs(20), async || {
            let operations = self.operations.read()[number];
            gateway::metrics_of(operations).await.filter(|m| m.sum("tickgate_redis_up") >= 2.0).map(|_| ())
        })
        .await;
    }

    /// Starts a new process in a replica's place.
    pub async fn restart(&self, number: usize) {
        let mut process = self.places[number].process.lock().await;
        self.replace(number, &mut process);
    }

    /// The same for a caller that holds the place.
    pub fn replace(&self, number: usize, process: &mut ServeProcess) {
        let place = &self.places[number];
        process.kill();
        let log = self.dir.path().join(format!("replica-{number}.log"));
        let url = url_of("tickgate", place.to_redis.address);
        let program = self.program.lock().clone();
        let start = || ServeProcess::start(&program, &url, &self.settings, &log, &self.variables);
        *process = tokio::task::block_in_place(start);
        place.to_clients.retarget(process.public.port());
        self.operations.write()[number] = process.operations;
        *place.fresh.lock() = process.footprint();
    }

    /// The usual audience: two clients per user, and one that takes over its session.
    pub fn seat_audience(&self, dice: &mut Dice) {
        for user in cast::users() {
            for (takes_over, number) in [(false, 1), (true, 2), (false, 3)] {
                let name = format!("{user}/{number}");
                let channels = cast::channels_of(&user);
                self.seat(Casting { takes_over, ..Casting::usual(&name, &user, channels) }, dice);
            }
        }
    }

    pub fn seat(&self, casting: Casting<'_>, dice: &mut Dice) -> (SharedDiary, watch::Sender<ClientOrder>) {
        let diary = SharedDiary::default();
        let (orders, told) = watch::channel(ClientOrder::Live);
        let through_proxies = || self.places.iter().map(|place| place.to_clients.address).collect();
        let mut replicas: Vec<_> = if casting.direct { self.direct_addresses() } else { through_proxies() };
        if let Some(only) = casting.only {
            replicas = vec![replicas[only]];
        }
        let follower = ClientParameters {
            name: casting.name.to_owned(),
            user: casting.user.into(),
            takes_over: casting.takes_over,
            channels: casting.channels.clone(),
            replicas,
            diary: Arc::clone(&diary),
            orders: told,
            dice: dice.fork(),
            small_buffers: casting.small_buffers,
            session: None,
            cursors: HashMap::new(),
            shared: HashMap::new(),
            replaying: HashSet::new(),
            prefers: casting.prefers,
        };
        self.tasks.spawn("client", follower.run(self.tasks.stop()));
        self.clients.lock().push(StageClient {
            name: casting.name.to_owned(),
            channels: casting.channels,
            diary: Arc::clone(&diary),
            orders: orders.clone(),
            dismissed: false,
        });
        (diary, orders)
    }

    /// Ends a client permanently.
    pub fn dismiss(&self, name: &str) {
        for client in self.clients.lock().iter_mut().filter(|client| client.name == name) {
            client.dismissed = true;
            client.orders.send_replace(ClientOrder::End);
        }
    }

    fn direct_addresses(&self) -> Vec<SocketAddr> {
        let address = |place: &ReplicaPlace| place.process.try_lock().expect("nobody restarts it now").public;
        self.places.iter().map(address).collect()
    }

    pub fn start_traffic(&self, publishers: usize, dice: &mut Dice) {
        let tasks = Tasks::new();
        for _ in 0..publishers {
            tasks.spawn("publisher", Arc::clone(&self.traffic).run(dice.fork(), tasks.stop()));
        }
        *self.publishing.lock() = Some(tasks);
    }

    /// Ends the traffic once everything in flight is acknowledged or given up.
    pub async fn stop_traffic(&self) {
        let tasks = self.publishing.lock().take();
        if let Some(tasks) = tasks {
            assert_eq!(tasks.end(Duration::from_secs(60)).await, 0, "publishers still at work");
        }
    }

    /// A unique number for an order.
    pub fn next_order(&self) -> u64 {
        let mut orders = self.orders.lock();
        *orders += 1;
        *orders
    }

    /// Sums over all diaries.
    pub fn total(&self, of: impl Fn(&Diary) -> usize) -> usize {
        self.clients.lock().iter().map(|client| of(&client.diary.lock())).sum()
    }

    /// The sum of a metric over all replicas.
    pub async fn metric(&self, name: &str) -> f64 {
        self.metric_where(name, "").await
    }

    /// The sum over the series whose labels contain the text.
    pub async fn metric_where(&self, name: &str, label: &str) -> f64 {
        let mut sum = 0.0;
        for place in &self.places {
            let operations = place.process.lock().await.operations;
            let metrics = gateway::metrics_of(operations).await;
            sum += metrics.map_or(f64::NAN, |metrics| metrics.sum_where(name, label));
        }
        sum
    }
}

/// Repeats a query until it returns a result.
pub async fn eventually<T>(what: &str, timeout: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
