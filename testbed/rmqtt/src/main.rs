//! Run rmqtt with the plugins that this project needs, until SIGTERM.
//!
//! The only argument is a file of JSON, see [`Settings`]. The configurations of the plugins are in a directory that it
//! names; without `cluster` the node is alone.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::{anyhow, Context, Result};
use log::LevelFilter;
use rmqtt::context::ServerContext;
use rmqtt::net::{tls_provider, Builder};
use rmqtt::node::Node;
use rmqtt::server::MqttServer;
use rmqtt::types::QoS;
use serde::Deserialize;
use tokio::signal::unix::{signal, SignalKind};

const DAY: Duration = Duration::from_secs(86_400);
const MAX_LOAD: f32 = 100.0;

/// What differs between two nodes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Number of the node, from 1.
    node: u64,
    tcp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    certificate: String,
    key: String,
    /// Roots of the clients' certificates, which `tls` requires then.
    clients: Option<String>,
    /// Directory with a file `NAME.toml` for each plugin.
    plugins: String,
    /// Address for the other nodes.
    cluster: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let path = std::env::args().nth(1).ok_or_else(|| anyhow!("usage: rmqtt-broker FILE"))?;
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let settings: Settings = serde_json::from_str(&text).with_context(|| path.clone())?;
    // At the level of warnings, this plugin writes refused tokens into the log.
    env_logger::builder()
        .filter_level(LevelFilter::Info)
        .filter_module("rmqtt_auth_jwt", LevelFilter::Error)
        .init();
    tls_provider::default_provider().install_default().map_err(|_| anyhow!("two providers of TLS"))?;

    let context = ServerContext::new()
        .node(Node::new(settings.node, MAX_LOAD, MAX_LOAD, Duration::from_secs(5)))
        // A busy machine must not make the broker refuse its clients.
        .busy_check_enable(false)
        .plugins_config_dir(settings.plugins.as_str())
        .build()
        .await;
    rmqtt_retainer::register(&context, true, false).await?;
    rmqtt_auth_jwt::register(&context, true, false).await?;
    rmqtt_shared_subscription::register(&context, true, false).await?;
    if let Some(address) = settings.cluster {
        context.node.start_grpc_server(context.clone(), address, true, false);
        rmqtt_cluster_raft::register(&context, true, true).await?;
    }

    let mut server = MqttServer::new(context);
    // By default, the port is the listener's id, and both families have the same.
    let mut id = 0;
    for address in &settings.tcp {
        id += 1;
        server = server.listener_by_id(limited(*address).bind()?.tcp()?, id);
    }
    for address in &settings.tls {
        let listener = limited(*address)
            .tls_cert(Some(&settings.certificate))
            .tls_key(Some(&settings.key))
            .tls_cross_certificate(settings.clients.is_some())
            .tls_client_ca_certs(settings.clients.as_ref());
        id += 1;
        server = server.listener_by_id(listener.bind()?.tls()?, id);
    }
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = server.build().run() => ended,
        _ = end.recv() => Ok(()),
    }
}

/// Return a listener with the limits of the pool's Mosquitto, as far as rmqtt has them.
fn limited(address: SocketAddr) -> Builder {
    Builder::new()
        .laddr(address)
        .reuseaddr(Some(true))
        .nodelay(true)
        .allow_anonymous(false)
        .max_keepalive(300)
        .max_packet_size(589_824)
        .max_inflight(NonZeroU16::new(1000).expect("not 0"))
        .max_mqueue_len(500_000)
        .max_clientid_len(512)
        .max_qos_allowed(QoS::AtLeastOnce)
        .session_expiry_interval(2 * DAY)
        .max_session_expiry_interval(2 * DAY)
        // Of messages without an expiry of their own: assignments and settings must stay.
        .message_expiry_interval(3650 * DAY)
}
