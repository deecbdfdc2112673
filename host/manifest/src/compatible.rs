//! Checks the compatibility of a plugin and this host by their versions. Reads neither the library
//! nor its stamp: both are arguments.

use semver::{Version, VersionReq};

use crate::error::{ApiMismatch, StampMismatch};

/// Checks that a plugin works with a host that provides plugin API `host`.
///
/// `accepted` is the manifest's `api`, `built` the API version in the library's stamp. The manifest
/// is checked first, then the stamp, whatever the manifest accepts.
///
/// # Errors
///
/// Fails with the first mismatch.
///
/// ```
/// use hotbay_manifest::{ApiMismatch, check_api};
/// use semver::{Version, VersionReq};
///
/// let host = Version::new(1, 2, 0);
/// let accepted = VersionReq::parse("^1.0").expect("a requirement");
/// assert_eq!(check_api(&accepted, &Version::new(1, 1, 0), &host), Ok(()));
/// let newer = check_api(&accepted, &Version::new(1, 3, 0), &host);
/// assert!(matches!(newer, Err(ApiMismatch::NewerMinor { .. })));
/// ```
pub fn check_api(
    accepted: &VersionReq,
    built: &Version,
    host: &Version,
) -> Result<(), ApiMismatch> {
    let (accepted_too, built_too, host_too) =
        (|| accepted.clone(), || built.clone(), || host.clone());
    if !accepted.matches(host) {
        Err(ApiMismatch::HostNotAccepted { accepted: accepted_too(), host: host_too() })
    } else if built.major != host.major {
        Err(ApiMismatch::OtherMajor { built: built_too(), host: host_too() })
    } else if built.minor > host.minor {
        Err(ApiMismatch::NewerMinor { built: built_too(), host: host_too() })
    } else {
        Ok(())
    }
}

/// Checks that a library's stamp has the package and version of its manifest.
///
/// # Errors
///
/// Fails with the differences.
pub fn check_stamp(
    package: &str,
    version: &Version,
    stamp_package: &str,
    stamp_version: &Version,
) -> Result<(), Box<StampMismatch>> {
    let mismatch = StampMismatch {
        package: (stamp_package != package).then(|| (stamp_package.to_owned(), package.to_owned())),
        version: (stamp_version != version).then(|| (stamp_version.clone(), version.clone())),
    };
    let is_equal = mismatch.package.is_none() && mismatch.version.is_none();
    if is_equal { Ok(()) } else { Err(Box::new(mismatch)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_mismatch_names_the_failed_check() {
        let check = |accepted: &str, built: &str, host: &str, expect: &str| {
            let accepted = accepted.parse().unwrap();
            let (built, host) = (built.parse().unwrap(), host.parse().unwrap());
            let result = check_api(&accepted, &built, &host)
                .map_err(|error| format!("{error}; {}", error.hint().unwrap_or_default()));
            assert_eq!(result.err().unwrap_or_default(), expect, "{accepted} {built} {host}");
        };
        check("^1.0", "1.3.0", "1.3.0", "");
        check("^1.0", "1.0.7", "1.3.0", "");
        check("*", "1.3.9", "1.3.0", "");
        check(
            "^2.0",
            "1.3.0",
            "1.3.0",
            "plugin.json requires plugin API `^2.0`; this host has 1.3.0; use a host that `api` \
             accepts, or let `api` accept 1.3.0 if the plugin works with it",
        );
        check(
            ">=1",
            "1.3.0",
            "2.1.0",
            "the library was built with plugin API 1.3.0; this host has 2.1.0; rebuild it with \
             `hotbay-plugin` 2.1 or an earlier 2.x",
        );
        check(
            "^1.0",
            "1.4.0",
            "1.3.0",
            "the library was built with plugin API 1.4.0; this host has 1.3.0; use a host \
             with 1.4 or later, or rebuild it with `hotbay-plugin` 1.3",
        );
    }

    #[test]
    fn stamp_mismatch_names_the_differences() {
        let check = |package: &str, version: &str, expect: &str| {
            let accepted = Version::new(0, 1, 0);
            let result = check_stamp("transform", &accepted, package, &version.parse().unwrap());
            let message = result.map_err(|error| error.to_string()).err().unwrap_or_default();
            assert_eq!(message, expect);
        };
        check("transform", "0.1.0", "");
        check(
            "filter",
            "0.1.0",
            "the library does not match its manifest: its package is `filter`, but \
             plugin.json states `transform`",
        );
        check(
            "transform",
            "0.2.0",
            "the library does not match its manifest: its version is 0.2.0, but plugin.json \
             states 0.1.0",
        );
        check(
            "filter",
            "0.1.0+x",
            "the library does not match its manifest: its package is `filter`, but \
             plugin.json states `transform`; its version is 0.1.0+x, but plugin.json states \
             0.1.0",
        );
    }
}
