//! The program {{name}}: what is in the library, served to a host over a socket.

hotbay_plugin::serve_plugin!({{library}}::Greeter);
