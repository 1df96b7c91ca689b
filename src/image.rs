//! `coracle image`: puts images into a node's store and looks at them, whether the node runs or not.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use coracle_wasmlet::images::ImageStore;
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
            Command::Inspect { image } => inspect(&store, &image),
        }
    }
}

fn import(store: &Arc<ImageStore>, file: &std::path::Path, tag: &str) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let image = runtime.block_on(store.import(file, tag))?;
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
    Ok(())
}
