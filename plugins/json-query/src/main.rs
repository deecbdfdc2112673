//! The program `json-query`: serves the plugin over a socket.

hotbay_plugin::serve_plugin!(json_query::JsonQuery);
