//! rumqttc in the ring of `tests/interop/25_restart.py`: `rumqttc_keeper HOST PORT 4|5 NAME`. See there for what a keeper does.

use std::{collections::HashSet, io::BufRead as _, time::Duration};

use anyhow::bail;
use tokio::{sync::watch, time::sleep};

macro_rules! keeper {
    ($name:ident, $($root:ident)::+, $($packets:ident)::+, $persistent:expr, $least:expr, $qos:expr) => {
        #[allow(clippy::print_stdout, reason = "the result")]
        async fn $name(host: &str, port: u16, name: &str, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
            use $($packets)::+::Packet;
            use $($root)::+::{AsyncClient, Event, MqttOptions};
            let mut options = MqttOptions::new(name, host, port);
            $persistent(&mut options);
            let (client, mut events) = AsyncClient::new(options, 10);
            let (mut sent, mut published) = (0, 0);
            let mut seen = HashSet::new();
            let mut next = tokio::time::interval(Duration::from_millis(20));
            let (mut subscribed, mut told) = (false, false);
            loop {
                tokio::select! {
                    event = events.poll() => match event {
                        Ok(Event::Incoming(Packet::ConnAck(connack))) if !connack.session_present => {
                            println!("SUBSCRIBE");
                            // Not at QoS 2: it forgets with its connection what it has received, and takes a PUBREL for
                            // that as an offence, so it would never come back.
                            client.try_subscribe("ring/+", $least)?;
                        }
                        Ok(Event::Incoming(Packet::SubAck(_))) => {
                            println!("READY");
                            subscribed = true;
                        }
                        Ok(Event::Incoming(Packet::PubComp(_))) => published += 1,
                        Ok(Event::Incoming(Packet::Publish(publish))) => {
                            let text = String::from_utf8_lossy(&publish.payload).into_owned();
                            // rumqttc leaves to its user what came before and is sent again.
                            if seen.insert(text.clone()) || !publish.dup {
                                println!("GOT {} {text}", publish.qos as u8);
                            }
                        }
                        Ok(_) => {}
                        Err(_) => sleep(Duration::from_millis(100)).await,
                    },
                    _ = next.tick(), if subscribed && !*stop.borrow() && sent < published + 5 => {
                        // No room now: at the next tick.
                        let message = format!("{name} {sent}");
                        sent += usize::from(client.try_publish(format!("ring/{name}"), $qos, false, message).is_ok());
                    }
                    _ = stop.changed() => {}
                }
                if *stop.borrow() && published >= sent && !told {
                    told = true;
                    println!("SENT {sent} {published}");
                }
            }
        }
    };
}

keeper!(
    v4,
    rumqttc,
    rumqttc,
    |options: &mut rumqttc::MqttOptions| {
        options.set_clean_session(false);
    },
    rumqttc::QoS::AtLeastOnce,
    rumqttc::QoS::ExactlyOnce
);
keeper!(
    v5,
    rumqttc::v5,
    rumqttc::v5::mqttbytes::v5,
    |options: &mut rumqttc::v5::MqttOptions| {
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(3600));
    },
    rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
    rumqttc::v5::mqttbytes::QoS::ExactlyOnce
);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, version, name] = args.as_slice() else { bail!("HOST PORT 4|5 NAME") };
    let (stop, stopped) = watch::channel(false);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line == "stop" {
                stop.send_replace(true);
            }
        }
        // The receiver sees a closed channel only when this thread ends, which it does not before the process.
        std::thread::park();
    });
    match version.as_str() {
        "4" => v4(host, port.parse()?, name, stopped).await,
        "5" => v5(host, port.parse()?, name, stopped).await,
        _ => bail!("the version is 4 or 5"),
    }
}
