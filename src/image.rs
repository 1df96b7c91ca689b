//! `coracle image`: puts images into a node's store and looks at them, whether the node runs or not.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use coracle_wasmlet::images::auth::for_image;
use coracle_wasmlet::images::{ImageStore, Reference, RegistryAuth};
use coracle_wasmlet::images_directory;

use crate::options::DataOptions;

#[derive(Args)]
pub struct Image {
    #[command(subcommand)]
    command: Command,
    /// The node's data directory [default: /var/lib/coracle, or ~/.local/share/coracle for other users than root]
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Takes a .wasm file, an OCI layout directory or an OCI archive into the store
    Import {
        file: PathBuf,
        /// The reference that pods will name it by
        #[arg(long, value_name = "REF")]
        tag: String,
    },
    /// Shows what the store has
    List,
    /// Removes images
    Rm {
        #[arg(required = true, value_name = "REF")]
        images: Vec<String>,
    },
    /// Sends an image to a registry
    Push {
        #[arg(value_name = "REF")]
        image: String,
        /// The name it gets there [default: the one it has here]
        #[arg(long = "as", value_name = "REF")]
        to: Option<String>,
        /// A docker configuration with credentials [default: $DOCKER_CONFIG/config.json, or ~/.docker/config.json]
        #[arg(long, value_name = "FILE")]
        auth_file: Option<PathBuf>,
        /// Speak to the registry without TLS; on loopback it is anyhow
        #[arg(long)]
        plain_http: bool,
    },
    /// Shows what an image is, needs and offers
    Inspect {
        #[arg(value_name = "REF")]
        image: String,
    },
}

impl Image {
    pub fn run(self) -> anyhow::Result<()> {
        let directory = DataOptions { data_dir: self.data_dir, log_level: String::new() }.directory()?;
        let store = ImageStore::open(&images_directory(&directory))?;
        match self.command {
            Command::Import { file, tag } => import(&store, &file, &tag),
            Command::List => list(&store),
            Command::Rm { images } => images.iter().try_for_each(|image| {
                store.remove(image)?;
                println!("removed {image}");
                Ok(())
            }),
            Command::Push { image, to, auth_file, plain_http } => {
                let to = to.unwrap_or_else(|| image.clone());
                let auth = credentials(auth_file, &to)?;
                let digest = runtime()?.block_on(store.push(&image, &to, &auth, plain_http))?;
                println!("pushed {to} {digest}");
                Ok(())
            }
            Command::Inspect { image } => inspect(&store, &image),
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

/// What docker's configuration has for the image; nothing where there is none and none was named.
fn credentials(file: Option<PathBuf>, image: &str) -> anyhow::Result<Vec<RegistryAuth>> {
    let home = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let named = file.is_some();
    let usual =
        || Some(home("DOCKER_CONFIG").or_else(|| Some(home("HOME")?.join(".docker")))?.join("config.json"));
    let Some(path) = file.or_else(usual) else { return Ok(Vec::new()) };
    let json = match std::fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let reference: Reference = image.parse().with_context(|| format!("image name {image:?}"))?;
    for_image(&json, false, &reference).with_context(|| path.display().to_string())
}

fn import(store: &Arc<ImageStore>, file: &std::path::Path, tag: &str) -> anyhow::Result<()> {
    let image = runtime()?.block_on(store.import(file, tag))?;
    println!("imported {} {}", image.reference, image.digest);
    Ok(())
}

fn list(store: &ImageStore) -> anyhow::Result<()> {
    let images = store.list()?;
    let width = images.iter().map(|i| i.reference.len()).max().unwrap_or(0).max("REFERENCE".len());
    println!("{:width$}   {:19}   {:>9}   CREATED", "REFERENCE", "DIGEST", "SIZE");
    for image in images {
        let digest = image.digest.get(..19).unwrap_or(&image.digest);
        println!(
            "{:width$}   {digest:19}   {:>9}   {}",
            image.reference,
            size(image.size_bytes),
            image.created_at
        );
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..1_048_576 => format!("{}KiB", bytes / 1024),
        _ => format!("{}MiB", bytes / 1_048_576),
    }
}

fn inspect(store: &ImageStore, image: &str) -> anyhow::Result<()> {
    let (image, inspection) = store.inspect(image)?;
    println!("reference:  {}", image.reference);
    println!("digest:     {}", image.digest);
    println!("module:     {} ({})", image.wasm_digest, size(inspection.size_bytes));
    println!("world:      {}", inspection.kind.world());
    for (title, names) in [("imports", &inspection.imports), ("exports", &inspection.exports)] {
        println!("{title}:");
        for name in names {
            println!("  {name}");
        }
    }
    println!("compiled:");
    let forms = store.compiled().forms(&image.wasm_digest).context("looking at compiled modules")?;
    for (configuration, bytes) in &forms {
        println!("  {configuration} ({})", size(*bytes));
    }
    if forms.is_empty() {
        println!("  not yet: a pod's start does it");
    }
    Ok(())
}
