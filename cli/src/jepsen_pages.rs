//! `hedgerow jepsen page` and `hedgerow jepsen serve`: histories and runs as pages for people.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use hedgerow_env::Level;
use hedgerow_jepsen::report::{self, serve::Server};

use crate::out::{self, say};
use crate::production::{Logging, client_env};

/// Exit code for input that cannot be used.
const EXIT_UNUSABLE: u8 = 2;

/// `hedgerow jepsen page`
#[derive(Args, Debug)]
pub(crate) struct Page {
    /// What the history is of; not needed for a run's directory, which has its verdict
    #[arg(long)]
    model: Option<String>,
    /// The initial value
    #[arg(long, allow_hyphen_values = true)]
    initial: Option<String>,
    /// Where to write the page [default: the history's name and .html]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A history (Jepsen's EDN, its log lines, or our binary form), or the directory of a run
    path: PathBuf,
}

/// `hedgerow jepsen serve`
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// The store: <DIR>/<test>/<time>/ for each run
    #[arg(long, value_name = "DIR", default_value = "store")]
    store: PathBuf,
    /// Where to listen. Whoever reaches it can read the store
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8917")]
    listen: String,
}

/// Writes a page.
pub(crate) fn page(page: &Page) -> ExitCode {
    if page.path.is_dir() {
        return match report::write_page(&page.path) {
            Ok(path) => {
                say!("{}", path.display());
                ExitCode::SUCCESS
            }
            Err(error) if error.is_missing() => unusable(&format!(
                "{error}; name the folder of a run, such as store/<test>/<time>"
            )),
            Err(error) => unusable(&error.to_string()),
        };
    }
    let Some(model) = &page.model else {
        return unusable("a history needs --model: `hedgerow jepsen check --model x` lists them");
    };
    let text = match crate::jepsen::read(&page.path) {
        Ok(text) => text,
        Err(why) => return unusable(&why),
    };
    let name = page.path.file_name().unwrap_or_default().to_string_lossy();
    let initial = page.initial.as_deref();
    let (code, output, html) = hedgerow_jepsen::command::page(&name, model, initial, &text);
    let Some(html) = html else {
        return unusable(&format!("{}: {}", page.path.display(), output.trim_end()));
    };
    let out = page.out.clone().unwrap_or_else(|| beside(&page.path));
    if let Err(error) = report::files::write(&out, &html) {
        return unusable(&error.to_string());
    }
    say!("{}\n{}", output.trim_end(), out.display());
    ExitCode::from(u8::try_from(code).unwrap_or(EXIT_UNUSABLE))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".html");
    name.into()
}

fn unusable(why: &str) -> ExitCode {
    eprintln!("hedgerow: {why}");
    ExitCode::from(EXIT_UNUSABLE)
}

/// Serves a store until a signal comes.
pub(crate) fn serve(serve: &Serve) -> ExitCode {
    if !serve.store.is_dir() {
        return unusable(&format!(
            "{}: no such directory; `hedgerow jepsen run` makes it, --store names another",
            serve.store.display()
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs threads, and the machine refused them");
    let served = runtime.block_on(async {
        let env = client_env(Logging { level: Level::Warn });
        let server = Server::listen(env, &serve.listen, &serve.store).await?;
        out::offer(&format!("ready http://{}/", server.address()));
        tokio::select! {
            biased;
            () = crate::stop_signal() => {}
            () = server.run() => {}
        }
        Ok::<(), hedgerow_env::NetworkError>(())
    });
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => unusable(&format!(
            "{error}; --listen names another address, such as 127.0.0.1:8917"
        )),
    }
}
