//! What the launcher can do for a program, whichever interceptor caught its call.

use std::sync::Arc;

use crate::flows::Flows;
use crate::gate::Gate;
use crate::names::Names;
use crate::nameserver::Nameservers;
use crate::pod::Pod;
use crate::questions::Questions;
use crate::resolver::Resolver;
use crate::scope::Scope;

/// Shared by the interceptors of one run.
pub struct Services {
    /// Dials and resolves; its nameservers are asked by the questions below.
    pub pod: Arc<dyn Pod>,
    /// Connects.
    pub gate: Arc<Gate>,
    /// Datagrams.
    pub flows: Arc<Flows>,
    /// Lookups.
    pub names: Arc<Names>,
    /// What is the pod's at all.
    pub scope: Arc<Scope>,
    /// The pod's resolver settings, where they are known.
    pub resolver: Option<Arc<Resolver>>,
    /// Questions of programs that send them to the pod's nameservers by themselves.
    pub questions: Arc<Questions>,
    /// Nameservers on loopback.
    pub nameservers: Nameservers,
}
