//! What has to hold of whatever comes out, by what went in.

use crate::generate::MTU;
use crate::packet::{self, Ip, Part};
use crate::services::{Backend, Holder, Services};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Dropped.
    Dropped,
    /// Handed on as it was.
    Untouched,
    /// Answered in the VIP's name.
    Answered,
    /// Passed on as it was, to another machine of the segment.
    PassedOn,
    /// Encapsulated.
    Encapsulated,
    /// With another destination.
    Translated,
    /// A backend's answer, in the VIP's name again.
    Returned,
    /// Taken out of a tunnel.
    Unwrapped,
    /// Changed in other ways: from pods, or for pods.
    Other,
}

/// Where a packet met a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where packets for VIPs enter the node, in XDP.
    Entry,
    /// Behind that, in TC: whom a frame goes to is the stack's to find out.
    EntryOfStack,
    /// Where nothing is balanced.
    Elsewhere,
}

/// Says what became of a packet that a program handed on or sent.
///
/// # Errors
/// Something that must never happen.
pub(crate) fn judge(
    services: &Services,
    input: &[u8],
    output: &[u8],
    sent: bool,
    at: Place,
) -> Result<Fate, String> {
    let before = packet::layers(input);
    let after = packet::layers(output);
    if !sent && is_same(input, output) {
        return Ok(Fate::Untouched);
    }
    let (Some(_), Some(outmost)) = (before.first(), after.first()) else {
        return judge_other(input, output);
    };

    let was_small = before[0].length() <= MTU;
    if was_small && outmost.length() > MTU {
        return Err(format!("{} bytes are more than the MTU", outmost.length()));
    }
    if packet::fault(input, &before).is_none()
        && !packet::lacks_checksum(input, &before)
        && let Some(fault) = packet::fault(output, &after)
    {
        return Err(fault.to_owned());
    }

    // What is not sent on by a balancer's choice is whole, without the headers around it.
    let left = &output[outmost.start..outmost.end];
    let is_inside = before
        .iter()
        .skip(1)
        .any(|ip| *left == input[ip.start..ip.end]);
    if is_inside && !(sent && services.is_vip(outmost.destination)) {
        return Ok(Fate::Unwrapped);
    }
    // What was asked for is in the frame, or in the one tunnel that may be around it; whatever that
    // holds is its payload.
    let place = usize::from(before.len() > 1);
    let asked = &before[place];
    if at == Place::Elsewhere {
        return Ok(Fate::Other);
    }
    if !services.is_vip(asked.destination) {
        return judge_answer(services, (input, asked), (output, after.last()));
    }
    if let [answer] = after[..]
        && answer.destination == asked.source
        && answer.source == asked.destination
    {
        return Ok(Fate::Answered);
    }
    let is_tunnelled = after.len() > 1 && services.is_own(outmost.source);
    let (around, rest) = after.split_at(usize::from(is_tunnelled));
    let now = &rest[0];
    if now.source != asked.source && !is_translated_source(services, now, asked) {
        return Err(format!("the source became {}", now.source));
    }
    if asked.payload(input) != now.payload(output) {
        return Err("the payload changed".to_owned());
    }
    let mut backends = backends_for(services, input, asked);
    if place == 1 && before[0].is_vxlan(input) {
        // The node that sent it has picked, and names the backend.
        let id = named_backend(input, asked);
        backends.extend(id.and_then(|id| services.by_id.get(&id)));
    }
    if services.is_vip(now.destination) {
        return check_forwarded(input, output, around, now, &backends, at);
    }
    let port = now.ports(output).map(|(_, to)| to);
    let is_backend = |backend: &Backend| {
        backend.address == now.destination && port.is_none_or(|port| port == backend.port)
    };
    if !backends.iter().any(is_backend) {
        let (to, port) = (now.destination, port.unwrap_or_default());
        return Err(format!("{to}:{port} is no backend of the service"));
    }
    Ok(Fate::Translated)
}

/// Whether a frame is what it was; an skb may have its VLAN tag beside the bytes by now.
fn is_same(input: &[u8], output: &[u8]) -> bool {
    let has_tag = packet::be16(input, 12).is_some_and(|kind| packet::TAGS.contains(&kind));
    let without = |tag: usize| output.get(12..) == input.get(12 + tag..);
    input == output || has_tag && input[..12] == output[..12] && without(4)
}

/// Full NAT puts the node's address in.
fn is_translated_source(services: &Services, now: &Ip, asked: &Ip) -> bool {
    services.is_own(now.source) && now.destination != asked.destination
}

/// A packet for an address that is no VIP. In a VIP's name it may only be sent if it answers for it.
fn judge_answer(
    services: &Services,
    (input, asked): (&[u8], &Ip),
    (output, now): (&[u8], Option<&Ip>),
) -> Result<Fate, String> {
    let Some(now) = now else {
        return Ok(Fate::Other);
    };
    let is_named_anew = services.is_vip(now.source) && !services.is_vip(asked.source);
    if !is_named_anew || !services.is_own(asked.destination) {
        return Ok(Fate::Other);
    }
    if asked.is_error(input) {
        return Ok(Fate::Returned);
    }
    if asked.payload(input) != now.payload(output) {
        return Err("the payload of an answer changed".to_owned());
    }
    let port = now.ports(output).map(|(from, _)| from);
    let backends = services.of(now.source, now.protocol, port);
    let from = asked.ports(input).map(|(from, _)| from);
    let sent_it = |backend: &Backend| {
        backend.address == asked.source && from.is_none_or(|from| from == backend.port)
    };
    if backends.iter().any(sent_it) {
        Ok(Fate::Returned)
    } else {
        Err(format!(
            "{} answers as {}, of which it is no backend",
            asked.source, now.source
        ))
    }
}

/// A frame without IP: sent only if it is an answer to a question about neighbours.
fn judge_other(input: &[u8], output: &[u8]) -> Result<Fate, String> {
    const ARP: u16 = 0x0806;
    match packet::network(output) {
        Some((ARP, start)) if output.get(start + 6..start + 8) == Some(&[0, 2]) => {
            Ok(Fate::Answered)
        }
        _ if input == output => Ok(Fate::Other),
        _ => Err("what was sent is no packet that fits its frame".to_owned()),
    }
}

/// The backends that a packet for a VIP may reach.
fn backends_for(services: &Services, input: &[u8], asked: &Ip) -> Vec<Backend> {
    if asked.is_error(input) {
        // It belongs to whoever sent what it quotes, in the VIP's name.
        let Some(quoted) = asked.quoted(input) else {
            return Vec::new();
        };
        let port = quoted.ports(input).map(|(from, _)| from);
        return services.of(quoted.source, quoted.protocol, port);
    }
    let port = match asked.part {
        Part::Later => None,
        Part::Whole | Part::First => match asked.ports(input) {
            Some((_, to)) => Some(to),
            None => return Vec::new(),
        },
    };
    services.of(asked.destination, asked.protocol, port)
}

/// The backend's id in the destination of the Ethernet header before `inner`.
fn named_backend(frame: &[u8], inner: &Ip) -> Option<u32> {
    let id = frame[inner.start - 14..inner.start - 8].strip_prefix(&[0x02, 0xfa])?;
    Some(u32::from_be_bytes(id.try_into().ok()?))
}

/// A packet still for the VIP: in a tunnel, or passed on as it is.
fn check_forwarded(
    input: &[u8],
    output: &[u8],
    around: &[Ip],
    inner: &Ip,
    backends: &[Backend],
    at: Place,
) -> Result<Fate, String> {
    let Some(outer) = around.last() else {
        let destination: [u8; 6] = output[..6].try_into().expect("an Ethernet header");
        let is_left_to_stack = at == Place::EntryOfStack && output[..6] == input[..6];
        let is_holder = backends.iter().any(|backend| match backend.holder {
            Holder::Here => false,
            Holder::Node { mac, .. } => mac == destination,
            Holder::Server { mac, is_adjacent } => {
                is_adjacent && (mac == destination || is_left_to_stack)
            }
        });
        return if is_holder {
            Ok(Fate::PassedOn)
        } else {
            Err(format!(
                "passed on to {destination:02x?}, who has no backend"
            ))
        };
    };
    let is_right = if outer.is_vxlan(output) {
        // To a node, with the backend's id in place of an address.
        let named = named_backend(output, inner);
        backends.iter().any(|backend| {
            Some(backend.id) == named
                && matches!(backend.holder, Holder::Node { address, .. } if address == outer.destination)
        })
    } else {
        let is_server = |backend: &Backend| matches!(backend.holder, Holder::Server { .. });
        outer.is_server_tunnel(output, inner)
            && backends
                .iter()
                .any(|backend| is_server(backend) && backend.address == outer.destination)
    };
    if is_right {
        Ok(Fate::Encapsulated)
    } else {
        Err(format!(
            "encapsulated for {}, which has no such backend",
            outer.destination
        ))
    }
}
