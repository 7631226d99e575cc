//! What the tests' containers run: one static program, told what to do by its arguments.
//! Compiled by the tests with rustc alone.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut steps = args.as_slice();
    // Steps run one after the other: `print TEXT exit 3`.
    while let Some((step, rest)) = steps.split_first() {
        let argument = rest.first().copied().unwrap_or_default();
        let takes_argument = !matches!(*step, "sleep" | "namespaces" | "mounts");
        match *step {
            "print" => println!("{argument}"),
            "error" => eprintln!("{argument}"),
            "exit" => std::process::exit(argument.parse().unwrap()),
            "cat" => print!("{}", std::fs::read_to_string(argument).unwrap_or_default()),
            "env" => println!("{argument}={}", std::env::var(argument).unwrap_or_default()),
            "touch" => std::fs::write(argument, "").unwrap(),
            "last-words" => std::fs::write("/dev/termination-log", argument).unwrap(),
            "exists" => std::process::exit(if std::path::Path::new(argument).exists() {
                0
            } else {
                1
            }),
            "allocate" => {
                let mut blocks = Vec::new();
                for _ in 0..argument.parse::<usize>().unwrap() {
                    let mut block = vec![0u8; 1 << 20];
                    block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                    blocks.push(block);
                }
                println!("allocated {}", blocks.len());
            }
            "sleep" => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            "namespaces" => {
                println!(
                    "cgroup {}",
                    std::fs::read_to_string("/proc/self/cgroup").unwrap()
                );
                println!("pid {}", std::process::id());
            }
            "mounts" => print!("{}", std::fs::read_to_string("/proc/self/mounts").unwrap()),
            "serve" => serve(argument.parse().unwrap()),
            other => panic!("unknown step {other}"),
        }
        steps = if takes_argument { &rest[1..] } else { rest };
    }
}

/// Answers 200, or 503 as long as /tmp/unready exists.
fn serve(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    println!("serving");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let unready = std::path::Path::new("/tmp/unready").exists();
        let status = if unready {
            "503 Service Unavailable"
        } else {
            "200 OK"
        };
        let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    }
}
