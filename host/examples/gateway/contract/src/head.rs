//! The head of a request, and lookups in it.

/// A request without its body.
#[hotbay_plugin::data]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestHead {
    /// The method, in upper case.
    pub method: String,
    /// The path, with its leading slash; not decoded.
    pub path: String,
    /// What follows the first `?`; empty if there is none.
    pub query: String,
    /// Names and values of the headers; names are in lower case.
    pub headers: Vec<(String, String)>,
    /// The IP address of the client.
    pub client: String,
}

impl RequestHead {
    /// Returns the first header with this name, which must be in lower case.
    ///
    /// ```
    /// let headers = vec![("accept".to_owned(), "*/*".to_owned())];
    /// let head = gateway_contract::RequestHead { headers, ..Default::default() };
    /// assert_eq!(head.header("accept"), Some("*/*"));
    /// assert_eq!(head.header("host"), None);
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the name of the route: the first part of the path.
    ///
    /// ```
    /// let path = "/hello/you".to_owned();
    /// let head = gateway_contract::RequestHead { path, ..Default::default() };
    /// assert_eq!((head.route(), head.rest()), ("hello", "you"));
    /// ```
    pub fn route(&self) -> &str {
        self.parts().0
    }

    /// Returns the path behind the name of the route; empty if there is none.
    pub fn rest(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        let path = self.path.strip_prefix('/').unwrap_or_default();
        path.split_once('/').unwrap_or((path, ""))
    }
}
