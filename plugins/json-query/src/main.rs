//! The program `json-query`: the plugin of the library, served to a host over a socket.

hotbay_plugin::serve_plugin!(json_query::JsonQuery);
