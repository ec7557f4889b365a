//! Questions to the pod's nameservers, where they are [read](crate::questions).

use std::sync::Arc;

use tracing::{Instrument as _, debug_span};

use super::connections::Ends;
use super::{Network, packet};

impl Network {
    /// Takes a datagram that is a question to be read.
    pub(super) fn take_question(self: &Arc<Self>, (app, asked): Ends, datagram: &[u8]) -> bool {
        let reads = self.services.questions.reads(asked);
        if reads {
            let (network, question) = (Arc::clone(self), datagram.to_vec());
            let answer = async move {
                let answered = tokio::select! {
                    answered = network.services.questions.answer(asked, &question, false) => answered,
                    () = network.end.cancelled() => None,
                };
                if let Some(packet) = answered.and_then(|answer| packet::datagram(asked, app, &answer)) {
                    network.raw(app.ip(), packet);
                }
            };
            self.tasks.spawn(answer.instrument(debug_span!("question", %app, %asked)));
        }
        reads
    }
}
