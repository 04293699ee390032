"""Engines that are broken on purpose, each in one way that the crash tests must catch.

A sabotage is a function that patches the engine in the process that calls it; `SABOTAGES` has them by name. To be
called once, after the crash program has put its own log in place, and before a directory is opened.
"""

import contextlib
import json
from dataclasses import replace
from functools import partial

import lmdb
from engine_calls import DIM

import engine
import engine.writer as whole
from engine.cold import cold, mapped
from engine.cold import file as cold_file
from engine.contract.arrays import NO_IDS
from engine.directory import backup, directory
from engine.directory import epochs as epoch
from engine.log import log, segment
from engine.store import removal
from engine.table.layout import vector_floats


def no_fsync():
    """The log is not synced."""
    log.os.fdatasync = lambda fd: None


def no_crc():
    """A record is believed for its header."""
    segment.is_whole = lambda header, head, body: len(body) == header.length - len(head)


def no_sync_before_lmdb():
    """An epoch does not wait for the log to be durable."""
    directory.Log.synced_seq = property(lambda self: self._last_seq)


def lmdb_before_log():
    """A record is learned, and in LMDB, before it is written to the log."""

    def learn_first(self, events, position, durable, progress):
        tally = whole.Tally()
        for record in whole.records(events, self.seq + 1, self.store.model.settings.batch_size, position):
            self.apply(record, tally)
            self.complete_epoch()
            self.directory.log.append(record)
            self.syncer.sync()
        return tally

    whole.Writer._log_and_learn = learn_first


def no_order_check():
    """`apply` takes any record: what else it would refuse."""
    plain = whole.Writer.apply

    def apply(self, record, tally, start=0, **how):
        self.seq = record.first_seq + start - 1
        plain(self, record, tally, start, **how)

    whole.Writer.apply = apply


def learn_twice():
    """Recovery begins with the last event that LMDB has, not with the one after."""

    no_order_check()

    def beyond(place):
        saved = place.state.seq
        try:
            found = list(place.log.replay(max(0, saved - 1)))
        except engine.CorruptionError:  # emptied after a forget: the log begins with the event after
            found = list(place.log.replay(saved))
        for record in found:
            yield record, max(0, saved - record.first_seq)

    whole.beyond = beyond


def skip_one():
    """Recovery leaves out the event after the last one that LMDB has."""

    no_order_check()

    def beyond(place):
        for record in place.log.replay(place.state.seq):
            yield record, max(0, place.state.seq + 2 - record.first_seq) if place.state.seq else 0

    whole.beyond = beyond


def ack_before_sync():
    """`ingest` returns before its fsync, which comes with the next record."""
    append = directory.Log.append

    def append_after_sync(self, record):
        self.sync()
        append(self, record)

    directory.Log.append = append_after_sync
    whole.Syncer.sync = lambda self: None


def trust_tail():
    """What is found in the log is believed to be durable."""
    opened = directory.Log.open.__func__

    def open_log(cls, place, owner, *, known_durable_seq):
        fsync, log.os.fsync = log.os.fsync, lambda fd: None
        try:
            return opened(cls, place, owner, known_durable_seq=known_durable_seq)
        finally:
            log.os.fsync = fsync

    directory.Log.open = classmethod(open_log)


def sync_again():
    """Opening trusts an fsync that follows one that failed."""
    log._write_again = lambda segment: None


def no_directory_sync():
    """Names of new log segments are not synced."""
    log.sync_directory = lambda place: None


def names_unsynced():
    """A compaction makes no name durable: of the file that is written from then on, and of the one that is gone."""
    cold._sync = cold_file.sync_directory = lambda place: None


def backup_unsynced():
    """A backup returns before its name is durable."""
    backup.made_aside = no_sync_around(backup.made_aside)


def no_sync_around(made_aside):
    @contextlib.contextmanager
    def unsynced(path, name):
        plain = directory.sync_directory
        with made_aside(path, name) as aside:
            yield aside
            directory.sync_directory = lambda place: None
        directory.sync_directory = plain

    return unsynced


def position_apart():
    """A position goes into a record of its own, after the events."""
    cut = whole.records

    def records(events, first_seq, batch_size, position):
        yield from cut(events, first_seq, batch_size, None)
        if position is not None:
            yield whole.Record(first_seq + len(events), 1, whole.NO_IDS, whole.NO_IDS, position=position)

    whole.records = records


def backup_copy_unsynced():
    """The rows of a backup are not synced."""
    write_backup, opened = backup.write_backup, lmdb.open

    def unsynced(snapshot, path):
        lmdb.open = partial(opened, sync=False)
        try:
            return write_backup(snapshot, path)
        finally:
            lmdb.open = opened

    backup.write_backup = unsynced


def hide_unlogged():
    """What is hidden is in the next epoch, not in the log."""
    in_epochs_alone("hide")


def forget_unlogged():
    """What is forgotten is gone from the next epoch, and the log does not say so."""
    in_epochs_alone("forget")


def forget_position_unlogged():
    """A forgotten position is gone from the next epoch, and the log does not say so."""
    in_epochs_alone("forget_position")


def in_epochs_alone(kind):
    """Operations of this kind are lost if no epoch follows; closing makes one, so that only a crash shows it."""
    operate = whole.Writer.operate

    def operate_unlogged(self, wanted, *ids, **source):
        place = self.directory
        if wanted == kind:
            self.directory = None
        try:
            operate(self, wanted, *ids, **source)
        finally:
            self.directory = place
            self._applied = place.log.appended_records

    def last_epoch_always(self):
        if self.failure is None:
            self.complete_epoch()

    whole.Writer.operate, whole.Writer.write_last_epoch = operate_unlogged, last_epoch_always


def purged_before_it_is():
    """The state says that a purge is done, and then it is done."""
    purge = epoch.Epochs._purge

    def said_first(self, state):
        self._directory.cold.write((), replace(state, purge=False).to_meta())
        purge(self, state)

    epoch.Epochs._purge = said_first


def expire_at_epochs():
    """Rows that nobody touches leave when an epoch begins."""
    due, begin = removal.Removal.due_for_expiry, epoch.Epochs.begin

    def begin_without_them(self, state):
        removing = self._store.removal
        removing.expire(*due(removing, 0, state.seq, state.settings.row_ttl))
        begin(self, replace(state, rows=self._store.tables.rows))

    removal.Removal.due_for_expiry, epoch.Epochs.begin = lambda *_: (NO_IDS, NO_IDS), begin_without_them


def sightings_unsaved():
    """An epoch leaves out how often ids were seen."""
    never_saved("sightings")


def decision_unsaved():
    """An epoch in the middle of a record leaves out which of its events are learned."""
    never_saved("decided")


def never_saved(name):
    write = cold.Cold.write

    def write_without(self, batches, meta, deletes=()):
        write(self, batches, meta | {name: b""}, deletes)

    cold.Cold.write = write_without


def value_sums_unsaved():
    """An epoch leaves out the sums of values and weights, to which every prediction adds."""
    write = cold.Cold.write

    def write_without(self, batches, meta, deletes=()):
        state = json.loads(meta["state"]) | {"value_sums": (0.0, 0.0)}
        write(self, batches, meta | {"state": json.dumps(state).encode()}, deletes)

    cold.Cold.write = write_without


def moments_lost():
    """Rows come back from LMDB without what the optimizer keeps in them, between bias and last seq (FORMAT.md)."""
    fetch = cold.Cold.fetch

    def fetch_without(self, number, ids, width):
        there, rows = fetch(self, number, ids, width)
        rows[:, 4 * (DIM + 1) : -24] = 0
        return there, rows

    cold.Cold.fetch = fetch_without


def neighbours_lost():
    """Rows of items come back from LMDB without their neighbours."""
    fetch, at = cold.Cold.fetch, 4 * vector_floats(DIM, "adagrad")

    def fetch_without(self, number, ids, width):
        there, rows = fetch(self, number, ids, width)
        rows[:, at:-24] = 0
        return there, rows

    cold.Cold.fetch = fetch_without


def weights_unsaved():
    """An epoch leaves out the weights that every list of a model with histories shares."""
    never_saved("weights")


def recent_unsaved():
    """An epoch leaves out the items of the latest events, of which negatives are drawn."""
    never_saved("recent")


def readers_follow_removals():
    """A reader is told which items an epoch wrote, though others were removed, hidden or shown."""
    freeze = removal.Removal.freeze
    removal.Removal.freeze = lambda self: freeze(self)._replace(can_be_followed=True)


def lock_file_believed():
    """To open for writing, LMDB's lock file is believed about which transaction was the last."""
    mapped.Mapped.settle = lambda self: None


def readers_keep_the_file():
    """A reader does not notice that the writer has moved to a new file."""
    cold.Cold.current = True


SABOTAGES = {
    sabotage.__name__: sabotage
    for sabotage in (
        *(no_fsync, no_crc, no_sync_before_lmdb, lmdb_before_log, learn_twice, skip_one, position_apart),
        *(ack_before_sync, trust_tail, sync_again, no_directory_sync, names_unsynced),
        *(backup_unsynced, backup_copy_unsynced, hide_unlogged, forget_unlogged, forget_position_unlogged),
        *(purged_before_it_is, expire_at_epochs, sightings_unsaved, decision_unsaved, readers_follow_removals),
        *(neighbours_lost, weights_unsaved, recent_unsaved),
        *(value_sums_unsaved, moments_lost, lock_file_believed, readers_keep_the_file),
    )
}
