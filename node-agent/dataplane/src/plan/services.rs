//! What the programs do with a service's packets, its tables, and who may use it.

use std::collections::{BTreeSet, HashSet};
use std::mem;

use fairlead_api::{BackendId, ServiceId};
use fairlead_dataplane_common::{
    FORMERS_PER_SLOT, LUT_EMPTY, SCHEDULER_LEAST_CONNECTIONS, SCHEDULER_NEVER_QUEUE,
    SCHEDULER_SHORTEST_EXPECTED_DELAY, SCHEDULER_WEIGHTED_LEAST_CONNECTIONS, SERVICE_AFFINITY,
    SERVICE_DESTINATION_HASH, SERVICE_DR, SERVICE_EXTERNAL_LOCAL, SERVICE_GUE, SERVICE_IN_TURN,
    SERVICE_INTERNAL_LOCAL, SERVICE_LEAST_LOAD, SERVICE_NAT, SERVICE_NOTED,
    SERVICE_SCHEDULER_SHIFT, SERVICE_SERVERS, SERVICE_SOURCE_HASH, SERVICE_SOURCE_RANGES,
    SERVICE_TRACK, ServiceEntry, hash, maps, protocol,
};

use super::{Full, Planner};
use crate::action::Action;
use crate::desired::{Backend, Forwarding, Place, Scheduler, Service, Tunnel};
use crate::lut;
use crate::maglev::Candidate;
use crate::moving::{Moving, Seconds};
use crate::observed::{Content, SourceRange, range_of};
use crate::recipe::{Form, LocalList, Recipe, Share};

/// Table slots that are left for tables when there is no room for bases any more: a base saves the
/// connections of one change, a table all of a service's.
const RESERVED_SLOTS: u32 = maps::LUT_SLOTS / 8;

/// The flags by which a hash that points into the table is chosen: a base made with other ones says
/// nothing.
const HASH_FLAGS: u32 = SERVICE_SOURCE_HASH | SERVICE_DESTINATION_HASH | SERVICE_AFFINITY;

/// What a service's slot holds, beside what it is to hold.
struct Held<'a> {
    entry: &'a ServiceEntry,
    range: lut::Range,
    content: &'a Content,
}

impl Held<'_> {
    /// Whether all flows were noted, and those of a service with `flags` are not.
    fn is_freed(&self, flags: u32) -> bool {
        self.entry.flags & SERVICE_NOTED != 0 && flags & SERVICE_NOTED == 0
    }
}

/// Where a service's tables are: one behind the other.
#[derive(Clone, Copy, Default, PartialEq)]
struct Placed {
    offset: u32,
    all_length: u32,
    local_length: u32,
    base_length: u32,
    former_length: u32,
}

impl Placed {
    fn of(entry: &ServiceEntry) -> Self {
        Self {
            offset: entry.lut_offset,
            all_length: entry.lut_length,
            local_length: entry.local_length,
            base_length: entry.base_length,
            former_length: entry.former_length,
        }
    }

    fn entry(self, id: ServiceId, flags: u32, service: &Service) -> ServiceEntry {
        ServiceEntry {
            lut_offset: self.offset,
            lut_length: self.all_length,
            local_length: self.local_length,
            id: id.0,
            flags,
            base_length: self.base_length,
            former_length: self.former_length,
            affinity_seconds: service
                .affinity
                .map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
        }
    }
}

impl Planner<'_> {
    /// Gives every service a slot and tables.
    pub(super) fn plan_services(&mut self, touched: &BTreeSet<ServiceId>) -> Result<(), Full> {
        let bank = self.observed.services(self.observed.active());
        let mut free = bank.free();
        for &id in touched {
            let before = self.observed.service(id);
            let Some(service) = self.desired.services.get(&id) else {
                if let Some((slot, before)) = before {
                    self.services.insert(slot, ServiceEntry::default());
                    self.free_table(slot, range_of(&before));
                    self.plan.leave.push(Action::ForgetDrops { slot });
                }
                self.plan_source_ranges(id, &BTreeSet::new())?;
                continue;
            };
            let slot = match before {
                Some((slot, _)) => slot,
                None => {
                    let slot = free.next().ok_or(Full {
                        what: "service ports",
                        wanted: bank.count() as u64 + 1,
                        capacity: u64::from(maps::SERVICES_MAX - 1),
                    })?;
                    self.plan.enter.push(Action::ResetStats { slot });
                    slot
                }
            };
            let flags = flags(service);
            let before = before.map(|(_, entry)| entry);
            let placed = self.plan_tables(id, slot, service, flags, before.as_ref())?;
            self.services.insert(slot, placed.entry(id, flags, service));
            let ranges = service.source_ranges.iter();
            self.plan_source_ranges(
                id,
                &ranges.map(|range| SourceRange::new(id, *range)).collect(),
            )?;
        }
        self.services
            .retain(|slot, entry| bank.get(*slot).copied().unwrap_or_default() != *entry);
        Ok(())
    }

    /// The range that holds the service's tables: its own, if they are in it, else a new one.
    fn plan_tables(
        &mut self,
        id: ServiceId,
        slot: u32,
        service: &Service,
        flags: u32,
        before: Option<&ServiceEntry>,
    ) -> Result<Placed, Full> {
        let recipe = self.recipe(service);
        let held = before.and_then(|entry| self.held(slot, entry));
        if let Some(held) = &held
            && matches!(held.content, Content::Built(of, None) if *of == recipe)
            && (held.entry.flags ^ flags) & SERVICE_EXTERNAL_LOCAL == 0
            && !held.is_freed(flags)
        {
            return Ok(Placed::of(held.entry));
        }
        let mut tables = recipe.tables();
        let packet_table = match recipe.local {
            LocalList::Full => &mut tables.local,
            LocalList::Absent | LocalList::Each => &mut tables.all,
        };
        let next = self.next_table(packet_table, &recipe, held.as_ref(), id, service, flags);
        let next = self.after_time(next, id, service, flags);
        let next = self.with_room(next, tables.all.len() + tables.local.len());
        let (all, local) = match recipe.local {
            LocalList::Full => (tables.all.as_slice(), next.elements()),
            LocalList::Absent | LocalList::Each => (next.elements(), tables.local.as_slice()),
        };
        let elements = [all, local, next.base(), next.formers()].concat();
        let mut placed = Placed {
            offset: 0,
            all_length: all.len() as u32,
            local_length: local.len() as u32,
            base_length: next.base().len() as u32,
            former_length: next.formers().len() as u32 / FORMERS_PER_SLOT,
        };
        let moving = (!next.is_at_rest()).then_some(next);
        if let Some(Held { range, content, .. }) = held {
            let stays = Placed {
                offset: range.offset,
                ..placed
            };
            let is_alike = before.is_some_and(|entry| Placed::of(entry) == stays);
            match content {
                Content::Built(of, held) if is_alike && *of == recipe && *held == moving => {
                    return Ok(stays);
                }
                Content::Found(found) if is_alike && *found == elements => {
                    self.plan.enter.push(Action::KeepTable {
                        service: slot,
                        range,
                        recipe,
                        moving,
                    });
                    return Ok(stays);
                }
                Content::Built(..) | Content::Found(_) => self.free_table(slot, range),
            }
        }
        let len = elements.len() as u32;
        if len == 0 {
            return Ok(Placed::default());
        }
        let range = self.lut.allocate(len).ok_or_else(|| Full {
            what: "table slots",
            wanted: u64::from(self.lut.capacity() - self.lut.free_slots()) + u64::from(len),
            capacity: u64::from(self.lut.capacity()),
        })?;
        placed.offset = range.offset;
        self.plan.enter.push(Action::WriteTable {
            service: slot,
            range,
            recipe,
            moving,
            elements,
        });
        Ok(placed)
    }

    /// What a service slot holds by its entry, if that is of our making.
    fn held<'a>(&'a self, slot: u32, entry: &'a ServiceEntry) -> Option<Held<'a>> {
        let range = range_of(entry);
        let table = self.observed.tables.get(&range)?;
        (table.service == slot).then_some(Held {
            entry,
            range,
            content: &table.content,
        })
    }

    /// The table that packets from outside pick from, once it is `table`.
    fn next_table(
        &self,
        table: &mut Vec<u32>,
        recipe: &Recipe,
        held: Option<&Held<'_>>,
        id: ServiceId,
        service: &Service,
        flags: u32,
    ) -> Moving {
        let Some(held) = held else {
            return Moving::stable(mem::take(table));
        };
        let lives = self.live_slots(service);
        let mut previous = held.content.packet_table(held.entry, self.moment.now);
        if self
            .moment
            .unused
            .is_some_and(|unused| unused.contains(&id))
        {
            previous = previous.without_states();
        }
        if table.is_empty() && !lives.is_empty() {
            // Nobody takes new connections, and somebody still has old ones: they need slots that
            // can say so.
            table.resize(previous.elements().len(), LUT_EMPTY);
        }
        // A list is no table that a hash points into, a base made by another hash says nothing, and
        // datagrams are all noted.
        let is_comparable = recipe.form == Form::Hashed
            && held.entry.flags & (SERVICE_IN_TURN | SERVICE_LEAST_LOAD) == 0
            && (held.entry.flags ^ flags) & HASH_FLAGS == 0
            && service.protocol != protocol::UDP;
        let is_freed = held.is_freed(flags);
        if is_comparable {
            let previous = if is_freed {
                previous.with_all_noted()
            } else {
                previous
            };
            return previous.replace(table, |slot| lives.contains(&slot), self.moment.now);
        }
        let stable = Moving::stable(mem::take(table));
        if is_freed {
            stable.with_all_noted()
        } else {
            stable
        }
    }

    /// What becomes of a table's states by now.
    fn after_time(&self, table: Moving, id: ServiceId, service: &Service, flags: u32) -> Moving {
        let window = Seconds::try_from(service.timeouts.established.as_secs());
        let table = table.pass_time(self.moment.now, window.unwrap_or(Seconds::MAX));
        if flags & SERVICE_NOTED != 0 {
            // Notes are looked for whatever the slot's state.
            return table.settle(|_| false);
        }
        let table = self.settle(table, id);
        if table.is_at_rest() && table.slots().all(|slot| slot == LUT_EMPTY) {
            // Nobody takes connections, and nobody has old ones any more.
            return Moving::default();
        }
        table
    }

    /// A table with what there is room for of the tables before it, where `others` slots go to the
    /// service's other tables.
    fn with_room(&self, table: Moving, others: usize) -> Moving {
        let has_room = |table: &Moving| {
            let wanted = others + table.base().len() + table.formers().len();
            self.lut.free_slots() >= wanted as u32 + RESERVED_SLOTS
        };
        let is_alone = |table: &Moving| table.base().is_empty() && table.formers().is_empty();
        if is_alone(&table) || has_room(&table) {
            return table;
        }
        let table = table.without_formers();
        if is_alone(&table) || has_room(&table) {
            return table;
        }
        table.without_base()
    }

    /// Makes those slots stable of which the last sweep has seen no note.
    fn settle(&self, table: Moving, id: ServiceId) -> Moving {
        let Some(hashes) = self
            .moment
            .swept
            .and_then(|swept| swept.hashes_since(id, table.written()))
        else {
            return table;
        };
        let length = table.elements().len();
        let mut is_noted = vec![false; length];
        for hash in hashes {
            if let Some(slot) = is_noted.get_mut(hash::reduce(*hash, length as u32) as usize) {
                *slot = true;
            }
        }
        table.settle(|slot| is_noted[slot as usize])
    }

    /// What the service's tables are made from.
    fn recipe(&self, service: &Service) -> Recipe {
        let is_here = |backend: &Backend| matches!(self.desired.place(backend), Place::Here);
        let picked = || {
            let backends = service.backends.iter();
            backends.filter(|(id, backend)| self.is_picked(**id, backend))
        };
        let stand_ins = || {
            let backends = service.backends.iter();
            backends.filter(|(id, backend)| self.is_stand_in(**id, service, backend))
        };
        let is_external =
            service.node_port.is_some() || service.frontends.iter().any(|one| one.external);
        let some_are_here = || picked().any(|(_, backend)| is_here(backend));
        let all_are_here = || picked().all(|(_, backend)| is_here(backend));
        let local = if service.external_local {
            LocalList::Full
        } else if service.internal_local && (some_are_here() || stand_ins().next().is_some())
            // Where all of them are here or none is, the one table says all.
            || service.forwarding.may_pass_on() && is_external && some_are_here() && !all_are_here()
        {
            LocalList::Each
        } else {
            LocalList::Absent
        };
        let share = |(&id, backend): (&BackendId, &Backend)| Share {
            candidate: Candidate {
                id,
                weight: match service.scheduler {
                    Scheduler::RoundRobin | Scheduler::LeastConnections => 1,
                    _ => backend.weight,
                },
            },
            slot: self.backend_slots[&id],
            is_here: local != LocalList::Absent && is_here(backend),
            is_silent: self.desired.is_silent(backend),
        };
        Recipe {
            form: Form::of(service.scheduler),
            local,
            shares: picked().map(share).collect(),
            stand_ins: stand_ins().map(share).collect(),
        }
    }

    /// The slots of backends that connections may belong to.
    fn live_slots(&self, service: &Service) -> HashSet<u32> {
        let slot_of = |id: &BackendId| self.backend_slots.get(id).copied();
        service.backends.keys().filter_map(slot_of).collect()
    }

    fn free_table(&mut self, slot: u32, range: lut::Range) {
        let owner = self.observed.tables.get(&range).map(|table| table.service);
        if owner == Some(slot) {
            self.plan.leave.push(Action::FreeTable { range });
        }
    }

    /// Lets in who may use a service before its flag is seen, and keeps out the others after those
    /// that run have ended.
    fn plan_source_ranges(
        &mut self,
        id: ServiceId,
        wanted: &BTreeSet<SourceRange>,
    ) -> Result<(), Full> {
        let held = &self.observed.source_ranges;
        let of_service = || held.range(SourceRange::all_of(id));
        let new = || wanted.iter().filter(|range| !held.contains(range));
        self.new_source_ranges += new().count();
        Full::check(
            "source ranges",
            held.len() + self.new_source_ranges,
            maps::SOURCE_RANGES_MAX,
        )?;
        let enter = new().map(|&range| Action::AddSourceRange { range });
        self.plan.enter.extend(enter);
        let stale = of_service().filter(|range| !wanted.contains(range));
        let leave = stale.map(|&range| Action::RemoveSourceRange { range });
        self.plan.leave.extend(leave);
        Ok(())
    }
}

/// What the programs do with the packets of a service.
fn flags(service: &Service) -> u32 {
    let scheduler = match service.scheduler {
        Scheduler::Maglev => 0,
        Scheduler::SourceHash => SERVICE_SOURCE_HASH,
        Scheduler::DestinationHash => SERVICE_DESTINATION_HASH,
        Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => SERVICE_IN_TURN,
        Scheduler::LeastConnections => least_load(SCHEDULER_LEAST_CONNECTIONS),
        Scheduler::WeightedLeastConnections => least_load(SCHEDULER_WEIGHTED_LEAST_CONNECTIONS),
        Scheduler::ShortestExpectedDelay => least_load(SCHEDULER_SHORTEST_EXPECTED_DELAY),
        Scheduler::NeverQueue => least_load(SCHEDULER_NEVER_QUEUE),
    };
    let conditional = [
        (service.forwarding.may_pass_on(), SERVICE_DR),
        (service.forwarding == Forwarding::Nat, SERVICE_NAT),
        (
            service.backends.values().any(Backend::is_outside),
            SERVICE_SERVERS,
        ),
        (service.tunnel == Tunnel::Gue, SERVICE_GUE),
        (
            service.affinity.is_some(),
            SERVICE_AFFINITY | SERVICE_SOURCE_HASH,
        ),
        (!service.source_ranges.is_empty(), SERVICE_SOURCE_RANGES),
        (service.external_local, SERVICE_EXTERNAL_LOCAL),
        (service.internal_local, SERVICE_INTERNAL_LOCAL),
        (service.is_always_tracked, SERVICE_TRACK),
        // A datagram does not say whether it is its flow's first.
        (service.protocol == protocol::UDP, SERVICE_TRACK),
    ];
    let chosen = conditional.into_iter().filter(|(holds, _)| *holds);
    let flags = chosen.fold(scheduler, |flags, (_, flag)| flags | flag);
    if flags & SERVICE_NOTED != 0 {
        flags | SERVICE_TRACK
    } else {
        flags
    }
}

const fn least_load(kind: u32) -> u32 {
    SERVICE_LEAST_LOAD | kind << SERVICE_SCHEDULER_SHIFT
}
