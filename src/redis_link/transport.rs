//! Opens connections: the only place, so that a simulation can replace the network under the links.

use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisResult, aio::MultiplexedConnection};

#[cfg(feature = "simulation")]
pub use simulated::{ConnectCall, Network, with_network};

/// Connects and authenticates. `name` describes the purpose of the connection.
pub(super) async fn open(
    info: &ConnectionInfo,
    settings: &AsyncConnectionConfig,
    #[cfg_attr(not(feature = "simulation"), expect(unused_variables, reason = "only for a simulated network"))]
    name: &str,
) -> RedisResult<MultiplexedConnection> {
    #[cfg(feature = "simulation")]
    if let Some(connection) = simulated(info, settings, name).await? {
        return Ok(connection);
    }
    Client::open(info.clone())?.get_multiplexed_async_connection_with_config(settings).await
}

/// A connection over the simulated network, if there is one.
#[cfg(feature = "simulation")]
pub(super) async fn simulated(
    info: &ConnectionInfo,
    settings: &AsyncConnectionConfig,
    name: &str,
) -> RedisResult<Option<MultiplexedConnection>> {
    let Some(ConnectCall { dialled, drive }) = simulated::dial(info, name) else { return Ok(None) };
    let (connection, driver) =
        MultiplexedConnection::new_with_config(info.redis_settings(), dialled.await?, settings.clone()).await?;
    drive(Box::pin(driver));
    Ok(Some(connection))
}

#[cfg(feature = "simulation")]
mod simulated {
    use std::{cell::RefCell, io, pin::Pin, rc::Rc};

    use redis::ConnectionInfo;
    use tokio::io::{AsyncRead, AsyncWrite};

    /// Both directions of a simulated connection.
    pub trait SimulatedWire: AsyncRead + AsyncWrite + Send + Unpin {}

    impl<T: AsyncRead + AsyncWrite + Send + Unpin> SimulatedWire for T {}

    /// An operation in progress.
    type PendingOperation<T> = Pin<Box<dyn Future<Output = T> + Send>>;

    /// A connection attempt, and the function that runs its driver once it is established.
    pub struct ConnectCall {
        /// Resolves to the connection, or to the reason why there is none.
        pub dialled: PendingOperation<io::Result<Box<dyn SimulatedWire>>>,
        /// Runs the future that moves the connection's bytes.
        pub drive: Box<dyn FnOnce(PendingOperation<()>) + Send>,
    }

    /// Replaces the network.
    pub trait Network {
        /// Connects to an address, such as `redis.example:6379`, for the purpose `name`.
        fn dial(&self, address: &str, name: &str) -> ConnectCall;
    }

    thread_local! {
        static NETWORK: RefCell<Option<Rc<dyn Network>>> = const { RefCell::new(None) };
    }

    /// Runs `act` with this network under all links of this thread only.
    pub fn with_network<R>(network: Rc<dyn Network>, act: impl FnOnce() -> R) -> R {
        let before = NETWORK.replace(Some(network));
        let result = act();
        NETWORK.set(before);
        result
    }

    pub(super) fn dial(info: &ConnectionInfo, name: &str) -> Option<ConnectCall> {
        NETWORK.with_borrow(|network| network.as_ref().map(|network| network.dial(&info.addr().to_string(), name)))
    }
}
