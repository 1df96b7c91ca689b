//! Basic commands for Wasm containers: one program that does what its first argument names, as busybox does.

mod archive;
mod context;
mod files;
mod shell;
mod text;
mod words;

use context::{Context, Done, Io};

type Tool = fn(&mut Context, &mut Io, &[String]) -> Done;

/// Sorted by name; the wasmlet's list of what it runs by this module must be the same.
const TOOLS: &[(&str, Tool)] = &[
    ("[", words::bracket),
    ("base64", text::base64),
    ("basename", words::basename),
    ("cat", text::cat),
    ("cp", files::cp),
    ("cut", text::cut),
    ("date", words::date),
    ("dirname", words::dirname),
    ("echo", words::echo),
    ("env", words::env),
    ("false", words::no),
    ("find", files::find),
    ("grep", text::grep),
    ("head", text::head),
    ("hostname", words::hostname),
    ("id", words::id),
    ("ls", files::ls),
    ("mkdir", files::mkdir),
    ("mv", files::mv),
    ("printenv", words::printenv),
    ("printf", words::printf),
    ("pwd", words::pwd),
    ("rm", files::rm),
    ("rmdir", files::rmdir),
    ("seq", words::seq),
    ("sh", shell::sh),
    ("sleep", words::sleep),
    ("sort", text::sort),
    ("stat", files::stat),
    ("tail", text::tail),
    ("tar", archive::tar),
    ("tee", text::tee),
    ("test", words::test),
    ("touch", files::touch),
    ("tr", text::tr),
    ("true", words::yes),
    ("uname", words::uname),
    ("uniq", text::uniq),
    ("wc", text::wc),
    ("which", words::which),
];

pub fn tool(name: &str) -> Option<Tool> {
    TOOLS.iter().find(|(known, _)| *known == name).map(|(_, tool)| *tool)
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().collect();
    let mut name = base(arguments.first().map_or("toolbox", String::as_str)).to_owned();
    if matches!(name.as_str(), "toolbox" | "toolbox.wasm") && arguments.len() > 1 {
        arguments.remove(0);
        name = base(&arguments[0]).to_owned();
    }
    let mut context = Context::of_process();
    let mut io = Io::of_process();
    let code = match name.as_str() {
        "--list" => {
            for (name, _) in TOOLS {
                io.say(name);
            }
            0
        }
        "bash" | "ash" => run(shell::sh, &mut context, &mut io, &name, &arguments[1..]),
        _ => match tool(&name) {
            Some(tool) => run(tool, &mut context, &mut io, &name, &arguments[1..]),
            None => {
                io.complain(&format!("{name}: not found"));
                127
            }
        },
    };
    io.flush();
    std::process::exit(code);
}

/// Runs a tool; what went wrong is told as it tells it.
pub fn run(tool: Tool, context: &mut Context, io: &mut Io, name: &str, arguments: &[String]) -> i32 {
    match tool(context, io, arguments) {
        Ok(code) => code,
        Err(failure) => {
            // Nobody reads what it writes any more: a process dies of that in silence.
            if failure.kind != Some(std::io::ErrorKind::BrokenPipe) {
                io.flush();
                io.complain(&format!("{name}: {}", failure.text));
            }
            1
        }
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
