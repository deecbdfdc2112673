//! `cargo xtask build-plugins`: builds the plugins of the workspace and installs each with its
//! manifest.

use std::path::PathBuf;

use clap::Args;
use hotbay_build::Workspace;
use hotbay_build::plugins::Build;

#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Builds optimized and stripped artifacts.
    #[arg(long)]
    release: bool,
    /// Builds only this plugin; may be repeated.
    #[arg(long = "plugin", value_name = "NAME")]
    plugins: Vec<String>,
    /// The folder of a plugin, or a folder whose subfolders are plugins [default: plugins].
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// The folder to install into; each plugin gets its own subfolder [default: target/plugins].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Rebuilds plugins as they change, without debug information, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

/// Builds and installs. Returns the folder with the installed plugins.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<PathBuf> {
    let out = match &options.out {
        Some(out) => std::path::absolute(out)?,
        None => workspace.target.join("plugins"),
    };
    let from = options.from.clone().unwrap_or_else(|| workspace.root.join("plugins"));
    let build = Build {
        from: vec![from],
        names: &options.plugins,
        out: out.clone(),
        target: Some(&workspace.target),
        release: options.release,
    };
    if options.watch {
        build.watch()?
    } else {
        build.run()?
    }
    Ok(out)
}
