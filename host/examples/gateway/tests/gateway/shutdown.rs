//! SIGTERM: running requests finish, and new ones are refused.

use std::io::Read;
use std::net::TcpListener;

use hotbay_tests::{Plugins, until};
use hyper::StatusCode;

use super::client::{Client, block_on};
use super::program::Gateway;

#[test]
fn running_request_finishes_after_sigterm() {
    let plugins = Plugins::new();
    plugins.add("faulty", "gateway-faulty").write();
    let mut gateway = Gateway::start(&plugins, "[]", "");
    let address = gateway.address;

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("/faulty/wait?{}", listener.local_addr().unwrap());
    let request = std::thread::spawn(move || {
        block_on(async { Client::connect(address).await.get(&path).await })
    });
    // The route runs from when it connects until the connection is closed.
    let (connection, _) = listener.accept().unwrap();
    gateway.terminate();
    until("the program does not accept connections", || {
        std::net::TcpStream::connect(address).err()
    });
    assert!(!request.is_finished());
    drop(connection);

    let response = request.join().unwrap().unwrap();
    assert_eq!((response.status(), &**response.body()), (StatusCode::OK, "read 0 bytes"));
    assert!(gateway.exit_status().success());
}

#[test]
fn idle_connection_does_not_delay_the_exit() {
    let plugins = Plugins::new();
    let mut gateway = Gateway::start(&plugins, "[]", "");
    let mut idle = std::net::TcpStream::connect(gateway.address).unwrap();
    gateway.terminate();
    assert!(gateway.exit_status().success());
    assert_eq!(idle.read(&mut [0]).unwrap_or_default(), 0);
}
