//! Every address of every uplink, probed step by step, all at the same time.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{Options, gateway::Running, upstream};
use crate::{
    config::Config,
    doctor::finding::{Check, Finding, Notebook},
    uplink::{self, Probe, ProbeId, Subscription},
};

/// Most addresses that are probed: beyond that many nobody reads what was found.
const ADDRESSES_MAX: usize = 64;

pub(super) async fn look(config: &Arc<Config>, running: &Running, options: &Options) -> Notebook {
    let mut notebook = Notebook::new(Check::Uplinks);
    if config.uplinks.is_empty() {
        notebook.note("uplinks", "none are configured: what is stored stays here");
        return notebook;
    }
    if options.own_client_id && running.is_up() {
        let found = "not probed under the gateway's own client ids: that would end the running gateway's connections";
        notebook.fail("--own-client-id", found, "leave the option out, or stop the gateway first");
        return notebook;
    }
    let addresses = config
        .uplinks
        .iter()
        .enumerate()
        .flat_map(|(uplink, settings)| settings.urls.iter().enumerate().map(move |(url, _)| (uplink, url)));
    let addresses: Vec<(usize, usize)> = addresses.take(ADDRESSES_MAX).collect();
    let mut probes = JoinSet::new();
    for (uplink, url) in addresses {
        let (config, options) = (Arc::clone(config), (options.limit, options.own_client_id));
        probes.spawn(async move { ((uplink, url), probe(&config, uplink, url, options).await) });
    }
    let mut done = probes.join_all().await;
    done.sort_by_key(|(place, _)| *place);
    for ((uplink, _), probe) in done {
        notebook.findings.extend(findings(config, running, options, uplink, &probe));
    }
    notebook
}

async fn probe(config: &Config, uplink: usize, url: usize, options: (Option<Duration>, bool)) -> Probe {
    let settings = &config.uplinks[uplink];
    let (limit, own) = options;
    let downlinks = config.downlinks.iter().filter(|downlink| downlink.from == uplink);
    let subscriptions = downlinks.flat_map(|downlink| {
        downlink.filters.iter().map(|filter| Subscription { filter: filter.clone(), qos: downlink.qos })
    });
    let id = if own { ProbeId::Own(subscriptions.collect()) } else { ProbeId::Guest };
    uplink::probe(settings, &settings.urls[url], id, limit.unwrap_or(settings.connect_timeout)).await
}

fn findings(config: &Config, running: &Running, options: &Options, uplink: usize, probe: &Probe) -> Vec<Finding> {
    let settings = &config.uplinks[uplink];
    let largest = config.broker.listeners.iter().map(|listener| listener.max_packet).max().unwrap_or(0);
    let state = running.uplink(&settings.name);
    let connected = state.is_some_and(|it| {
        it["state"] == "connected" && it["url"].as_str().is_none_or(|url| url == probe.url.to_string())
    });
    let own = options.own_client_id;
    upstream::findings(&upstream::Case { settings, probe, largest_packet: largest, connected, own })
}
