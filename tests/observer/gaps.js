// How long the event loop is held: a timer that should fire every millisecond records how late it
// was at worst, and perf_hooks' histogram says the same by other means.
'use strict';

const { monitorEventLoopDelay } = require('perf_hooks');

class Gaps {
  constructor() {
    this.longest = 0;
    this.last = process.hrtime.bigint();
    this.histogram = monitorEventLoopDelay({ resolution: 1 });
    this.histogram.enable();
    setInterval(() => {
      const now = process.hrtime.bigint();
      this.longest = Math.max(this.longest, Number(now - this.last) / 1e6);
      this.last = now;
    }, 1).unref();
    this.cpu = process.cpuUsage();
    this.since = process.hrtime.bigint();
  }

  // Milliseconds, and the share of a processor that this process used meanwhile.
  take() {
    const now = process.hrtime.bigint();
    const cpu = process.cpuUsage(this.cpu);
    const result = { timer: this.longest, histogram: this.histogram.max / 1e6,
      cpu: (cpu.user + cpu.system) / 1e3 / (Number(now - this.since) / 1e6) };
    this.longest = 0;
    this.histogram.reset();
    this.cpu = process.cpuUsage();
    this.since = now;
    return result;
  }
}

module.exports = { Gaps };
