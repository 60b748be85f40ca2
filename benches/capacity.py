#!/usr/bin/env python3
"""Simulates a deployment of several Hooktrails with NATS JetStream between them, and prints tables in Markdown.

Intake machines commit webhooks in groups, and publish them to streams with three replicas. Worker machines consume
the streams, commit again, and run handlers. A webhook is simulated as an event of each stage for the seconds of the
peak. A day with outages is simulated in steps of one second.

--check compares the parts with results of queueing theory that are exact."""

import argparse
import heapq
import math
import random
import sys

# Figures of benches/README.md, in seconds and events per second: two processors, which the load shared.
FIGURES = {
    "durable 202s, 256 connections": 33_927,
    "jobs of `true`, while events come in": 1_079,
    "jobs of a URL with prefetch, 16 threads": 14_184,
    "jobs of a stream with prefetch, 16 processes": 21_961,
    "append of 64 KiB with fdatasync, mean": 0.42e-3,
}
INTAKE_RATE = FIGURES["durable 202s, 256 connections"]
JOB_RATE = FIGURES["jobs of a stream with prefetch, 16 processes"]
SYNC_S = FIGURES["append of 64 KiB with fdatasync, mean"]
# Streams of messages with 700 bytes, measured on the same machine on 2026-11-30 (0dadee8). 32,000 queued jobs, published
# to a nats-server beside it in batches of 100 (one run). Messages of a stream with three replicas, stored by a source
# (the lower of two runs), and by one with `ordered = true` (median of three). The nats-servers shared the processors.
FORWARD_RATE = 23_413
SOURCE_RATE = 25_260
ORDERED_RATE = 1_041
# Three nats-servers 2.9 that shared the same two processors, a stream with three replicas in files, and messages of
# 700 bytes with 500 bytes of headers (2026-11-30): the rate with 100 in flight, and the time with one.
STREAM_RATE = 17_849
STREAM_S = 0.38e-3
# Bytes on disk of the 700 bytes of body.json with five headers (2026-11-30).
INTAKE_BYTES = 1_210
MESSAGE_BYTES = 1_348
WORKER_BYTES = 1_210

MAX_GROUP = 1_024
BATCH = 100
# What a commit of an event costs beside the sync, and what a job costs: one after the other on the same processors.
EVENT_S = 1 / INTAKE_RATE - SYNC_S / 256
FORWARD_S = 1 / FORWARD_RATE
MESSAGE_S = 1 / SOURCE_RATE
JOB_S = 1 / JOB_RATE
SINGLE_RATE = 1 / (EVENT_S + JOB_S)
INTAKE_MACHINE_RATE = 1 / (EVENT_S + FORWARD_S)
WORKER_MACHINE_RATE = 1 / (MESSAGE_S + JOB_S)

DAY_S = 86_400
PEAK_HOUR_S = 14 * 3_600


class Uniform:
    """Random numbers. All come from `random()`, whose sequence is the same in every version of Python."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def exponential(self, mean):
        return -mean * math.log(1 - self.random())

    def normal(self):
        return math.sqrt(-2 * math.log(1 - self.random())) * math.cos(2 * math.pi * self.random())

    def poisson(self, mean):
        """A number of events. Above 50, the normal distribution is close enough."""
        if mean > 50:
            return max(0, round(mean + math.sqrt(mean) * self.normal()))
        limit, product, count = math.exp(-mean), self.random(), 0
        while product > limit:
            product *= self.random()
            count += 1
        return count


def arrivals(uniform, rate, seconds):
    """The times of a Poisson process."""
    times, now = [], uniform.exponential(1 / rate)
    while now < seconds:
        times.append(now)
        now += uniform.exponential(1 / rate)
    return times


def serve_groups(times, fixed, each, max_group):
    """One server takes all that wait, up to a limit, and finishes them together. Returns when each one is finished."""
    ends, free, at = [], 0.0, 0
    while at < len(times):
        start = max(free, times[at])
        last = at
        while last < len(times) and last - at < max_group and times[last] <= start:
            last += 1
        free = start + fixed + (last - at) * each
        ends.extend([free] * (last - at))
        at = last
    return ends


def serve_each(times, durations, servers):
    """Servers that take one at a time, in order. Returns when each one is finished."""
    free = [0.0] * servers
    ends = []
    for time, duration in zip(times, durations):
        end = max(time, heapq.heappop(free)) + duration
        heapq.heappush(free, end)
        ends.append(end)
    return ends


def longest_queue(times, ends):
    """The highest number of those that have come and are not finished."""
    changes = sorted([(time, 1) for time in times] + [(time, -1) for time in ends])
    longest = queue = 0
    for _, change in changes:
        queue += change
        longest = max(longest, queue)
    return longest


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def rate_at(second, events, peak):
    """Events per second at a time of the day. The highest minute, at 14:00, is `peak` times the mean.

    A minute of each hour is a burst, as of senders with a clock."""
    curve = 1 + 0.8 * math.cos(2 * math.pi * (second - PEAK_HOUR_S) / DAY_S)
    burst = peak / 1.8
    is_burst = second % 3_600 < 60
    mean_of_burst = (3_540 + 60 * burst) / 3_600
    return events / DAY_S * curve * (burst if is_burst else 1) / mean_of_burst


class Deployment:
    """How many machines of each kind a number of events per day needs."""

    def __init__(self, options, events):
        self.options, self.events = options, events
        self.peak = max(rate_at(PEAK_HOUR_S + s, events, options.peak) for s in range(60))
        handled = options.threads / options.handler_seconds
        self.worker_rate = min(WORKER_MACHINE_RATE, handled)
        self.single_rate = min(SINGLE_RATE, handled)
        self.is_one_machine = self.peak <= options.load * self.single_rate
        needed = lambda rate: math.ceil(self.peak / (options.load * rate))
        # Another machine of each kind takes over from one that fails.
        self.intake = 1 if self.is_one_machine else needed(INTAKE_MACHINE_RATE) + 1
        self.streams = 0 if self.is_one_machine else needed(STREAM_RATE)
        self.servers = 3 * self.streams
        self.workers = 0 if self.is_one_machine else needed(self.worker_rate) + 1
        self.partitions = 0 if self.is_one_machine else max(4 * self.workers, needed(ORDERED_RATE))

    def machines(self):
        return self.intake + self.servers + self.workers

    def disk(self):
        """Bytes per day: on all intake machines, all nats-servers and all worker machines."""
        if self.is_one_machine:
            return [self.events * INTAKE_BYTES, 0, 0]
        return [self.events * INTAKE_BYTES, self.events * MESSAGE_BYTES * 3, self.events * WORKER_BYTES]


def split(uniform, times, parts):
    """Gives each time to one of the parts. Returns the positions of each part's times."""
    positions = [[] for _ in range(parts)]
    for position in range(len(times)):
        positions[int(uniform.random() * parts)].append(position)
    return positions


def serve_parts(uniform, times, parts, serve):
    """Serves times by several equal stations. Returns the ends, and the longest queue of a station."""
    ends, longest = [0.0] * len(times), 0
    for positions in split(uniform, times, parts):
        own = [times[position] for position in positions]
        own_ends = serve(own)
        for position, end in zip(positions, own_ends):
            ends[position] = end
        longest = max(longest, longest_queue(own, own_ends))
    return ends, longest


def next_stage(ends):
    """The order in which events reach the next stage."""
    return sorted(range(len(ends)), key=ends.__getitem__)


def simulate_peak(deployment, seconds):
    """The peak with one machine of each kind missing: times to the response and to the end of the handler."""
    options, uniform = deployment.options, Uniform(deployment.options.seed)
    begin = arrivals(uniform, deployment.peak, seconds)
    available = lambda machines: max(1, machines - 1)
    other = JOB_S if deployment.is_one_machine else FORWARD_S
    commit = lambda times: serve_groups(times, SYNC_S, EVENT_S + other, MAX_GROUP)
    receive = lambda times: serve_groups(times, SYNC_S, MESSAGE_S + JOB_S, MAX_GROUP)
    response, commit_queue = serve_parts(uniform, begin, available(deployment.intake), commit)
    queues, order = [commit_queue], next_stage(response)
    now = [response[position] for position in order]
    if not deployment.is_one_machine:
        publish = lambda times: serve_groups(times, STREAM_S, 1 / STREAM_RATE, BATCH)
        for parts, serve in [(deployment.streams, publish), (available(deployment.workers), receive)]:
            ends, queue = serve_parts(uniform, now, parts, serve)
            following = next_stage(ends)
            order, now = [order[at] for at in following], [ends[at] for at in following]
            queues.append(queue)
    handle = lambda times: serve_each(
        times, [uniform.exponential(options.handler_seconds) for _ in times], options.threads
    )
    ends, queue = serve_parts(uniform, now, available(deployment.workers), handle)
    queues.append(queue)
    # The first second fills the stages.
    kept = [at for at, position in enumerate(order) if begin[position] >= 1]
    handled = [ends[at] - begin[order[at]] for at in kept]
    responses = [response[order[at]] - begin[order[at]] for at in kept]
    return responses, handled, queues


def simulate_backlog(uniform, rate, capacity, outage):
    """Steps of one second from the start of an outage until the queue is empty. `rate(second)` are the mean arrivals;
    `capacity(second, is_out)` is what can be served. Returns the highest queue and the seconds until it is empty."""
    queue, highest, second = 0.0, 0.0, 0
    while second < outage or queue > 0:
        queue = max(0.0, queue + uniform.poisson(rate(second)) - capacity(second, second < outage))
        highest = max(highest, queue)
        second += 1
        if second >= 7 * DAY_S:
            return highest, math.inf
    return highest, second


def outages(deployment):
    """What can fail, and what can be handled per second during the outage and after it."""
    workers = deployment.worker_rate
    if deployment.is_one_machine:
        return [("the systems that handlers call", 0, deployment.single_rate)]
    all_streams = deployment.streams * STREAM_RATE
    all_intake = deployment.intake * INTAKE_MACHINE_RATE
    forwarded = min(all_streams, all_intake)
    return [
        ("one intake machine", min(all_streams, all_intake - INTAKE_MACHINE_RATE), forwarded),
        ("one nats-server: an election of 10 s", None, forwarded),
        ("the streams: no majority of their servers", 0, forwarded),
        ("one worker machine", workers * (deployment.workers - 1), workers * deployment.workers),
        ("the systems that handlers call", 0, workers * deployment.workers),
    ]


def simulate_outage(deployment, during, after):
    """An outage that begins at 14:00, the peak of the day."""
    options = deployment.options
    is_election = during is None
    outage = 10 if is_election else options.outage_minutes * 60
    # An election stops one stream of them.
    share = 1 / deployment.streams if is_election else 1
    rate = lambda second: share * rate_at(PEAK_HOUR_S + second, deployment.events, options.peak)
    capacity = lambda _, is_out: (during or 0) if is_out else share * after
    return simulate_backlog(Uniform(options.seed), rate, capacity, outage)


def number(value):
    return f"{round(value):,}"


def size(value):
    for unit, bytes_of_unit in [("TB", 1e12), ("GB", 1e9), ("MB", 1e6)]:
        if value >= bytes_of_unit:
            return f"{value / bytes_of_unit:.1f} {unit}"
    return "–" if value == 0 else f"{value / 1e3:.1f} kB"


def milliseconds(seconds):
    """Two digits: the last digits of a logarithm may differ between machines."""
    value = seconds * 1e3
    digits = 0 if value >= 10 else 1
    return f"{round(value, digits - 1 if value >= 100 else digits):.{digits}f} ms"


def duration(seconds):
    if seconds == math.inf:
        return "never"
    if seconds < 120:
        return f"{seconds} s"
    return f"{math.ceil(seconds / 60)} min"


def rounded(value):
    """Two significant digits of a random number."""
    if value < 100:
        return number(value)
    digits = int(math.log10(value)) - 1
    return number(round(value / 10**digits) * 10**digits)


def print_table(name, head, rows):
    print(f"<!-- {name} -->")
    for row in [head, ["---"] * len(head), *rows]:
        print(f"|{'|'.join(row)}|" if row[0] == "---" else f"| {' | '.join(row)} |")
    print(f"<!-- end of {name} -->\n")


def print_limits(options):
    """What one machine takes by each kind of handler, if intake and handlers share its processors."""
    head = ["handlers of one machine", "jobs per second", "events per day"]
    wait, handler = options.threads / options.handler_seconds, milliseconds(options.handler_seconds)
    each = lambda kind: 1 / (EVENT_S + 1 / FIGURES[kind])
    kinds = [
        ("a process for each job", FIGURES["jobs of `true`, while events come in"]),
        ("`url` with `prefetch`, a service that responds at once", each("jobs of a URL with prefetch, 16 threads")),
        ('`mode = "stream"` with `prefetch`, a program that answers at once', SINGLE_RATE),
        (f'`mode = "stream"`, {options.threads} threads, {handler} for each job', min(wait, SINGLE_RATE)),
    ]
    peak = max(rate_at(PEAK_HOUR_S + second, DAY_S, options.peak) for second in range(60))
    rows = [[kind, number(rate), rounded(options.load * rate / peak * DAY_S)] for kind, rate in kinds]
    print_table("limits", head, rows)


def print_machines(deployments):
    head = ["events per day", "mean", "peak", "intake machines", "streams", "nats-servers"]
    head += ["worker machines", "ordered partitions"]
    rows = []
    for d in deployments:
        counts = [d.intake, d.streams, d.servers, d.workers, d.partitions]
        counts = [str(count) if count else "–" for count in counts]
        if d.is_one_machine:
            counts[0] = "one machine does all"
        rows.append([number(d.events), f"{number(d.events / DAY_S)}/s", f"{number(d.peak)}/s", *counts])
    print_table("machines", head, rows)


def print_disk(deployments, options):
    has_price = options.machine_price or options.terabyte_price
    head = ["events per day", "intake, per day", "streams with three copies, per day", "workers, per day"]
    head.append(f"kept for {options.days} days")
    rows = []
    for d in deployments:
        disk = d.disk()
        kept = sum(disk) * options.days
        row = [number(d.events), *map(size, disk), size(kept)]
        if has_price:
            cost = d.machines() * options.machine_price + kept / 1e12 * options.terabyte_price
            row.append(number(cost))
        rows.append(row)
    print_table("disk", [*head, "cost per month"] if has_price else head, rows)


def print_latency(deployments, options):
    head = ["events per day", "response, median", "response, p99", "handled, median", "handled, p99", "longest queue"]
    rows = []
    for d in deployments:
        seconds = max(2, min(options.peak_seconds, options.max_simulated / d.peak))
        responses, handled, queues = simulate_peak(d, seconds)
        times = [percentile(values, share) for values in (responses, handled) for share in (0.5, 0.99)]
        rows.append([number(d.events), *map(milliseconds, times), rounded(max(queues))])
    print_table("latency", head, rows)


def print_outages(deployments):
    head = ["events per day", f"away for {deployments[0].options.outage_minutes} minutes", "longest queue"]
    head += ["its disk", "empty, from the start of the outage"]
    rows = []
    for d in deployments:
        for what, during, after in outages(d):
            highest, seconds = simulate_outage(d, during, after)
            row = [number(d.events), what]
            if highest < 1:
                rows.append([*row, "none", "–", "–"])
                continue
            disk = float(rounded(highest).replace(",", "")) * INTAKE_BYTES
            rows.append([*row, rounded(highest), size(disk), duration(seconds)])
    print_table("outages", head, rows)


def erlang_c(servers, load):
    """The probability that one has to wait for one of `servers`."""
    term, total = 1.0, 1.0
    for k in range(1, servers):
        term *= load / k
        total += term
    last = term * load / servers * servers / (servers - load)
    return last / (total + last)


def check(seed):
    """Compares the simulation with theory. Returns the number of differences."""
    uniform, differences = Uniform(seed), 0

    def compare(what, found, expected, tolerance):
        nonlocal differences
        is_equal = abs(found - expected) <= tolerance * abs(expected)
        differences += not is_equal
        print(f"{'ok' if is_equal else 'WRONG'}: {what}: {found:.6g}, theory {expected:.6g}, within {tolerance:.0%}")

    mean = lambda values: sum(values) / len(values)
    times = arrivals(uniform, 800, 500)
    compare("arrivals of a Poisson process", len(times), 400_000, 0.01)
    waits = [end - time - 1e-3 for time, end in zip(times, serve_groups(times, 1e-3, 0, 1))]
    compare("M/D/1 at load 0.8, mean wait", mean(waits), 0.8 * 1e-3 / (2 * (1 - 0.8)), 0.05)
    times = arrivals(uniform, 70, 10_000)
    durations = [uniform.exponential(0.1) for _ in times]
    ends = serve_each(times, durations, 10)
    waits = [end - time - length for time, end, length in zip(times, ends, durations)]
    compare("M/M/10 at load 0.7, mean wait", mean(waits), erlang_c(10, 7) / (10 / 0.1 - 70), 0.05)
    stays = [end - time for time, end in zip(times, ends)]
    changes = sorted([(time, 1) for time in times] + [(end, -1) for end in ends])
    area, queue, before = 0.0, 0, 0.0
    for time, change in changes:
        area, queue, before = area + queue * (time - before), queue + change, time
    compare("Little's law", area / changes[-1][0], len(times) / changes[-1][0] * mean(stays), 0.001)
    # A group takes the arrivals during the one before: g = rate × (fixed + g × each).
    times = arrivals(uniform, 20_000, 20)
    groups = len(set(serve_groups(times, 5e-3, 20e-6, 10**9)))
    compare("mean size of a group", len(times) / groups, 20_000 * 5e-3 / (1 - 20_000 * 20e-6), 0.02)
    compare("rate of groups of 256", 256 / (SYNC_S + 256 * EVENT_S), INTAKE_RATE, 0.001)
    day = sum(rate_at(second, 1e6, 3) for second in range(DAY_S))
    compare("events of a day", day, 1e6, 0.001)
    peak = max(rate_at(second, 1e6, 3) for second in range(DAY_S))
    compare("peak over mean", peak / (1e6 / DAY_S), 3, 0.02)
    highest, seconds = simulate_backlog(uniform, lambda _: 1_000, lambda _, is_out: 0 if is_out else 3_000, 600)
    compare("queue after an outage of 600 s", highest, 600_000, 0.01)
    compare("time until it is empty", seconds, 600 + 600_000 / 2_000, 0.01)
    normals = [uniform.normal() for _ in range(100_000)]
    compare("variance of the normal distribution", mean([x * x for x in normals]), 1, 0.02)
    counts = [uniform.poisson(4) for _ in range(50_000)]
    compare("mean of the Poisson distribution", mean(counts), 4, 0.02)
    return differences


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--check", action="store_true", help="compare the simulation with queueing theory, and print no table")
    option("--events", default="1e6,1e8,1e9", help="events per day, separated by commas (%(default)s)")
    option("--peak", type=float, default=3, help="the highest minute of the day over the mean (%(default)s)")
    option("--load", type=float, default=0.6, help="the share of a machine's rate that the peak may use (%(default)s)")
    option("--handler-seconds", type=float, default=0.02, help="mean time of a handler (%(default)s)")
    option("--threads", type=int, default=64, help="workers.threads of a worker machine (%(default)s)")
    option("--outage-minutes", type=int, default=10, help="how long an outage lasts (%(default)s)")
    option("--days", type=int, default=7, help="days for which events and messages are kept (%(default)s)")
    option("--machine-price", type=float, default=0, help="of a machine per month: adds a column with the cost")
    option("--terabyte-price", type=float, default=0, help="of a terabyte of disk per month")
    option("--peak-seconds", type=float, default=60, help="simulated seconds of the peak (%(default)s)")
    option("--max-simulated", type=float, default=150_000, help="most simulated events of the peak (%(default)s)")
    option("--seed", type=int, default=1, help="of the random numbers (%(default)s)")
    return parser.parse_args()


def main():
    options = parse_options()
    if options.check:
        return 1 if check(options.seed) else 0
    deployments = [Deployment(options, float(events)) for events in options.events.split(",")]
    print_limits(options)
    print_machines(deployments)
    print_disk(deployments, options)
    print_latency(deployments, options)
    print_outages(deployments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
