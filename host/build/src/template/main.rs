//! The program `{{name}}`: serves the plugin to a host over a socket.

hotbay_plugin::serve_plugin!({{library}}::Greeter);
