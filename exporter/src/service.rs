//! What the service manager is told (sd_notify(3)): ready, alive, stopping. Without one, nobody is.

use std::time::Duration;

use sd_notify::NotifyState;

/// Metrics are served, and the first reading is there.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Everything that must work does.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is to be said (`WatchdogSec=`, halved); `None`: never.
pub fn pause() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|time| time / 2)
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("tell the service manager: {error}");
    }
}
