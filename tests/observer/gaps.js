// How long the event loop is held: a timer that should fire every millisecond records how late it
// was at worst, and perf_hooks' histogram says the same by other means.
'use strict';

const { monitorEventLoopDelay, PerformanceObserver } = require('perf_hooks');

class Gaps {
  constructor() {
    this.histogram = monitorEventLoopDelay({ resolution: 1 });
    this.histogram.enable();
    this.collections = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
      this.collections = Math.max(this.collections, entry.duration);
    })).observe({ entryTypes: ['gc'] });
    this.reset();
    setInterval(() => this.tick(), 1).unref();
  }

  reset() {
    this.wall = 0;
    this.busy = 0;
    this.collections = 0;
    this.histogram.reset();
    this.since = this.last = process.hrtime.bigint();
    this.cpuSince = this.cpuLast = cpu();
  }

  // On a machine that is busy with other things only processor time tells who held the loop.
  tick() {
    const now = process.hrtime.bigint();
    const used = cpu();
    const wall = Number(now - this.last) / 1e6;
    this.wall = Math.max(this.wall, wall);
    this.busy = Math.max(this.busy, Math.min(wall, used - this.cpuLast));
    this.last = now;
    this.cpuLast = used;
  }

  // In milliseconds: longest hold-up by the clock, by perf_hooks, by processor time within it (all
  // threads); longest garbage collection; share of a processor that this process used.
  take() {
    this.tick();
    const share = (cpu() - this.cpuSince) / (Number(process.hrtime.bigint() - this.since) / 1e6);
    const result = { wall: this.wall, histogram: this.histogram.max / 1e6, busy: this.busy,
      collection: this.collections, share };
    this.reset();
    return result;
  }
}

function cpu() {
  const usage = process.cpuUsage();
  return (usage.user + usage.system) / 1e3;
}

module.exports = { Gaps };
