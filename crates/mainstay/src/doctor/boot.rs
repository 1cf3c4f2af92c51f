//! What becomes of a service when its host starts.

use super::{Chain, Told};
use crate::app::App;
use crate::init::timer::RECOVER;
use engines::Waits;
use operations::{ServiceSite, look};

/// Looks whether its unit waits for the clean-up. What was written down when the timer was installed knows
/// nothing of a service that was added later.
pub(crate) fn examine(chain: &mut Chain<'_>, app: &App, service: &ServiceSite) -> Told {
    let after = service
        .engine()
        .and_then(|engine| look(service, &app.run(), |cx| engine.control().waits_for(RECOVER, cx)));
    match after {
        Ok(Some(Waits::Yes)) => {
            chain.ok("boot", "its unit waits for the clean-up at the host's start")
        }
        Ok(Some(Waits::IfItStarts)) => chain.warn(
            "boot",
            format!("{RECOVER} does not clean up at the host's start: it is not enabled"),
            format!("Run `systemctl enable {RECOVER}`."),
        ),
        Ok(Some(Waits::Not)) => chain.warn(
            "boot",
            format!("its unit does not wait for {RECOVER} at the host's start"),
            "Run `mainstay init --install-timer` again.",
        ),
        // There is no such unit, or no systemd that could be asked.
        Ok(None) | Err(_) => Ok(()),
    }
}
