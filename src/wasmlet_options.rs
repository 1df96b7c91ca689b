//! What the wasmlet is told of pods and images, under the kubelet's names for it where it has one.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use coracle_wasmlet::images::collection::Policy;

use crate::options::parse_duration;

#[derive(Args, Clone, Debug)]
pub struct WasmletOptions {
    /// The most pods the node takes [default: as many as the machine and the pod network hold]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_pods: Option<u32>,
    /// Share of the disk in use from which images that no pod uses are removed; 100 turns it off. Imported images stay
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_high_threshold: u8,
    /// Share of the disk in use down to which they are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: u8,
    /// Images that came to the node within this time are not removed
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
    minimum_image_ttl_duration: Duration,
    /// A registry that is spoken to without TLS, beside those on loopback; may be given several times
    #[arg(long, value_name = "HOST[:PORT]", value_parser = registry)]
    plain_http_registry: Vec<String>,
}

impl WasmletOptions {
    /// Says what does not fit together.
    pub fn check(&self) -> anyhow::Result<()> {
        let (high, low) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        ensure!(
            low < high,
            "--image-gc-low-threshold {low} must be lower than --image-gc-high-threshold {high}"
        );
        Ok(())
    }

    /// Puts them where the wasmlet reads them.
    pub fn apply(&self, options: &mut coracle_wasmlet::Options) {
        options.max_pods = self.max_pods;
        options.image_collection = Policy {
            high_percent: self.image_gc_high_threshold,
            low_percent: self.image_gc_low_threshold,
            age_least: self.minimum_image_ttl_duration,
        };
        options.plain_http_registries.clone_from(&self.plain_http_registry);
    }
}

/// A registry as image names begin with it.
fn registry(text: &str) -> Result<String, String> {
    let authority: http::uri::Authority =
        text.parse().map_err(|error| format!("{error}; give HOST or HOST:PORT, without scheme and path"))?;
    if authority.as_str().contains('@') {
        return Err("credentials come from imagePullSecrets; give HOST or HOST:PORT".to_owned());
    }
    Ok(text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: WasmletOptions,
    }

    fn applied(arguments: &[&str]) -> Result<coracle_wasmlet::Options, String> {
        let line = Line::try_parse_from(std::iter::once(&"node").chain(arguments));
        let line = line.map_err(|error| error.to_string())?;
        let mut options = coracle_wasmlet::Options::new("n", "/nowhere");
        line.options.check().map_err(|error| error.to_string())?;
        line.options.apply(&mut options);
        Ok(options)
    }

    #[test]
    fn the_kubelets_defaults_and_what_is_given() {
        let options = applied(&[]).unwrap();
        assert_eq!((options.image_collection, options.max_pods), (Policy::default(), None));
        let given = [
            "--max-pods=110",
            "--image-gc-high-threshold=60",
            "--image-gc-low-threshold=50",
            "--minimum-image-ttl-duration=90s",
            "--plain-http-registry=Registry.local:5000",
            "--plain-http-registry=10.0.0.1",
        ];
        let options = applied(&given).unwrap();
        let want = Policy { high_percent: 60, low_percent: 50, age_least: Duration::from_secs(90) };
        assert_eq!((options.image_collection, options.max_pods), (want, Some(110)));
        assert_eq!(options.plain_http_registries, ["registry.local:5000", "10.0.0.1"]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (given, says) in [
            (
                &["--image-gc-low-threshold=85"][..],
                "--image-gc-low-threshold 85 must be lower than --image-gc-high-threshold 85",
            ),
            (&["--image-gc-high-threshold=101"], "101 is not in 0..=100"),
            (&["--max-pods=0"], "0 is not in 1.."),
            (&["--minimum-image-ttl-duration=2 days"], "--minimum-image-ttl-duration"),
            (&["--plain-http-registry=http://a"], "without scheme and path"),
            (&["--plain-http-registry=user@a"], "imagePullSecrets"),
        ] {
            let error = applied(given).err().unwrap();
            assert!(error.contains(says), "{given:?}: {error}");
        }
    }
}
