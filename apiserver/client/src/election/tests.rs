//! Candidates against one lease: who leads, when it changes hands, what is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::fake::Fake;

fn candidate(identity: &str) -> Candidate {
    Candidate { name: "test".into(), identity: identity.into(), timing: Timing::default() }
}

fn spec(fake: &Arc<Fake>) -> LeaseSpec {
    fake.get::<Lease>(NAMESPACE, "test").unwrap().spec.unwrap()
}

fn elector(fake: &Arc<Fake>, identity: &str) -> Elector {
    Elector { client: fake.client(identity), candidate: candidate(identity), observed: None }
}

#[test]
fn timing_is_checked() {
    let seconds = Duration::from_secs;
    for (lease, renew, retry, fine) in [
        (15, 10, 2, true),
        (10, 10, 2, false),
        (15, 2, 2, false),
        (15, 10, 0, false),
        (3, 2, 1, true),
        (0, 0, 0, false),
    ] {
        let timing = Timing {
            leader_elect_lease_duration: seconds(lease),
            leader_elect_renew_deadline: seconds(renew),
            leader_elect_retry_period: seconds(retry),
        };
        assert_eq!(timing.check().is_ok(), fine, "{timing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_taken_over_when_its_holder_was_silent_for_its_duration() {
    let fake = Fake::new();
    let (mut first, mut second) = (elector(&fake, "first"), elector(&fake, "second"));
    assert!(first.try_acquire_or_renew().await.unwrap());
    assert_eq!(spec(&fake).lease_transitions, Some(0));
    assert!(!second.try_acquire_or_renew().await.unwrap());
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert!(first.try_acquire_or_renew().await.unwrap());
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert!(!second.try_acquire_or_renew().await.unwrap(), "it was renewed: seen just now");
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert!(second.try_acquire_or_renew().await.unwrap());
    let taken = spec(&fake);
    assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("second"), Some(1)));
    assert!(!first.try_acquire_or_renew().await.unwrap(), "the old one sees that it is one no more");
}

#[tokio::test(start_paused = true)]
async fn clocks_of_others_do_not_matter() {
    let fake = Fake::new();
    let mut first = elector(&fake, "first");
    assert!(first.try_acquire_or_renew().await.unwrap());
    // It says that it renewed in the past century.
    let mut lease = fake.get::<Lease>(NAMESPACE, "test").unwrap();
    lease.spec.as_mut().unwrap().renew_time = Some(MicroTime(Timestamp::UNIX_EPOCH));
    fake.put(&lease).unwrap();
    let mut second = elector(&fake, "second");
    assert!(!second.try_acquire_or_renew().await.unwrap());
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(second.try_acquire_or_renew().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_gives_the_lease_up_and_only_when_the_work_is_over() {
    let fake = Fake::new();
    let leading = Arc::new(AtomicUsize::new(0));
    let start = |identity: &str| {
        let (end, leading) = (CancellationToken::new(), leading.clone());
        let lead = move |term: CancellationToken| {
            let leading = leading.clone();
            async move {
                assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two lead at once");
                term.cancelled().await;
                // Work under way takes longer than a lease lasts.
                tokio::time::sleep(Duration::from_secs(20)).await;
                leading.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let running = tokio::spawn(run(fake.client(identity), candidate(identity), end.clone(), lead));
        (end, running)
    };
    let (end_first, first) = start("first");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (end_second, second) = start("second");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(spec(&fake).holder_identity.as_deref(), Some("first"));
    end_first.cancel();
    first.await.unwrap();
    assert_eq!(spec(&fake).holder_identity.as_deref(), Some(""));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let taken = spec(&fake);
    assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("second"), Some(1)));
    end_second.cancel();
    second.await.unwrap();
}
