//! What every request passes before it is answered: whom it is for, how often, and from whom.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hyper::Request;
use hyper::header::{HeaderName, HeaderValue};

use crate::web::auth::{self, Access};
use crate::web::guesses::Guesses;
use crate::web::hosts::{Hosts, Refusal};
use crate::web::settings::Settings;

/// Names of hosts that are told in the log.
const MOST_TOLD: usize = 8;

/// Stands before all pages but the health checks; all copies are one.
#[derive(Clone, Debug, Default)]
pub struct Front {
    access: Access,
    hosts: Arc<Hosts>,
    settings: Arc<RwLock<Arc<Settings>>>,
    /// Foreign names that requests were for.
    told: Arc<Mutex<BTreeSet<String>>>,
    /// Passwords that wait to be checked; they hold no thread.
    guesses: Guesses,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It names no host, or several.
    Unclear,
    /// It is for another host.
    Foreign,
    /// There were too many.
    TooMany,
    /// Too many passwords from the same address wait to be checked.
    Guessing,
    /// Nobody knows who asks; whether users are asked for, rather than a token.
    Unknown { users: bool },
}

impl Front {
    /// For those with the token of `access`, or the users of `settings`; where neither is, for everybody who
    /// asks for this host.
    pub fn new(access: Access, hosts: Hosts, settings: Settings) -> Self {
        let (hosts, settings) = (Arc::new(hosts), Arc::new(RwLock::new(Arc::new(settings))));
        Self { access, hosts, settings, ..Self::default() }
    }

    /// Other settings hold from the next request on, TLS from the next connection.
    pub fn renew(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// What protects now and would not with these settings.
    pub fn lost(&self, settings: &Settings) -> Vec<&'static str> {
        let tls = (self.is_tls() && !settings.is_tls()).then_some("TLS");
        let users = (self.has_users() && !settings.has_users()).then_some("users' passwords");
        tls.into_iter().chain(users).collect()
    }

    /// TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.settings().is_tls()
    }

    /// Users are asked for.
    pub fn has_users(&self) -> bool {
        self.settings().has_users()
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Set in every response.
    pub(super) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        self.settings().headers.clone()
    }

    /// Judges a request of this client.
    pub(super) async fn admit<B>(
        &self,
        request: &Request<B>,
        client: IpAddr,
    ) -> Result<(), Denied> {
        let judged = self.hosts.judge(request.version(), request.uri(), request.headers());
        judged.map_err(|refusal| match refusal {
            Refusal::Unclear => Denied::Unclear,
            Refusal::Foreign(name) => {
                self.tell(&name);
                Denied::Foreign
            }
        })?;
        let settings = self.settings();
        if !settings.has_room() {
            return Err(Denied::TooMany);
        }
        let users = settings.has_users();
        if !users && self.access.is_open() {
            return Ok(());
        }
        let unknown = Denied::Unknown { users };
        let given = auth::credentials(request.headers()).ok_or(unknown)?;
        if self.access.fits(given.secret.as_bytes()) {
            return Ok(());
        }
        let Some(name) = given.name.filter(|_| users) else { return Err(unknown) };
        self.is_user(settings, name, given.secret, client).await?.then_some(()).ok_or(unknown)
    }

    async fn is_user(
        &self,
        settings: Arc<Settings>,
        name: String,
        password: String,
        client: IpAddr,
    ) -> Result<bool, Denied> {
        if let Some(answer) = settings.users.remember(&name, &password) {
            return Ok(answer);
        }
        let turn = self.guesses.turn(client).await.ok_or(Denied::Guessing)?;
        let check = move || {
            // Until the check is done, though who asked may be gone.
            let _turn = turn;
            settings.users.check(&name, &password)
        };
        Ok(tokio::task::spawn_blocking(check).await.unwrap_or(false))
    }

    /// Says once for each of a few names that it is not answered for.
    fn tell(&self, name: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MOST_TOLD && told.insert(name.to_owned()) {
            tracing::warn!(
                "a request for host `{name}` is not answered: if that is this host, say \
                 --web.allowed-hosts {name}"
            );
        }
    }
}
