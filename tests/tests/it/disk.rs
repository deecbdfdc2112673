//! What lies on disk: links that lead out, files that others may write to, copies that stay.

use std::fs;

use hotbay::{ErrorKind, Host, Request};
use hotbay_tests::{Plugins, block_on, host, library, library_file_name, loaded, refused, unique};
use tempfile::TempDir;

#[test]
fn a_library_outside_of_its_folder_by_name_is_refused() {
    let plugins = Plugins::new();
    for stem in ["../outside/faulty", "..", "sub/faulty", "/faulty"] {
        let folder = plugins.add("outside", "faulty").set("library", stem);
        let error = refused(&host(&plugins), folder.write());
        let kinds = [ErrorKind::Manifest, ErrorKind::Integrity];
        let told = error.full_message();
        assert!(kinds.contains(&error.kind()), "{stem}: {told}");
        assert!(told.contains("library") || told.contains(stem), "{told}");
    }
}

#[cfg(unix)]
#[test]
fn a_library_outside_of_its_folder_by_a_link_is_refused_and_one_inside_is_not() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let folder = plugins.add("linking", "faulty").write();
    let name = library_file_name("faulty");
    let inside = folder.join("real");
    fs::rename(folder.join(&name), &inside).unwrap();

    std::os::unix::fs::symlink(library("faulty"), folder.join(&name)).unwrap();
    let error = refused(&host, &folder);
    let told = error.full_message();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{told}");
    assert!(told.contains("links to") && told.contains(&name), "{told}");

    fs::remove_file(folder.join(&name)).unwrap();
    std::os::unix::fs::symlink("real", folder.join(&name)).unwrap();
    let linking = loaded(&host, &folder);
    assert_eq!(linking.call(Request::text("hi")).unwrap().as_bytes(), b"hi");
}

#[cfg(unix)]
#[test]
fn what_others_may_write_to_is_refused_unless_allowed() {
    use std::os::unix::fs::PermissionsExt;
    let library = library_file_name("faulty");
    for (spoilt, mode) in [("", 0o777), ("plugin.json", 0o666), (&library, 0o664)] {
        let plugins = Plugins::new();
        let folder = plugins.add("open", "faulty").write();
        let path = folder.join(spoilt);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();

        let error = refused(&host(&plugins), &folder);
        let told = format!("{error:?}");
        assert_eq!(error.kind(), ErrorKind::Integrity, "{told}");
        assert!(told.contains("chmod go-w"), "{told}");
        let report = block_on(host(&plugins).load_all());
        assert_eq!((report.loaded.len(), report.refused.len()), (0, 1));

        let trusting = Host::builder().allow_writable_by_others(true);
        loaded(&trusting.build().unwrap(), &folder);
    }
}

#[cfg(unix)]
#[test]
fn a_plugin_below_a_folder_that_others_may_write_to_is_passed_over() {
    use std::os::unix::fs::PermissionsExt;
    let plugins = Plugins::new();
    plugins.add("below", "faulty").write();
    fs::set_permissions(plugins.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let report = block_on(host(&plugins).load_all());
    assert_eq!((report.loaded.len(), report.refused.len()), (0, 1));
    let told = report.refused[0].error.full_message();
    assert!(told.contains("was skipped"), "{told}");
}

#[test]
fn a_library_is_never_used_where_it_lies() {
    let (plugins, staging) = (Plugins::new(), TempDir::new().unwrap());
    let folder = plugins.add(&unique("moved"), "faulty").write();
    let builder = Host::builder().staging_dir(staging.path());
    let host = builder.build().unwrap();
    let moved = loaded(&host, &folder);
    assert_eq!(hotbay_tests::mappings(&folder.display().to_string()), 0);
    // Overwritten in place, which would crash a program that had mapped it.
    fs::write(folder.join(library_file_name("faulty")), [0; 4096]).unwrap();
    assert_eq!(moved.call(Request::text("hi")).unwrap().as_bytes(), b"hi");
    drop((host, moved));
    assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0);
}

#[test]
fn a_staging_folder_that_is_missing_is_a_refusal_and_not_the_end() {
    let plugins = Plugins::new();
    let folder = plugins.add("unstaged", "faulty").write();
    let builder = Host::builder().staging_dir(plugins.dir().join("nowhere"));
    let error = refused(&builder.build().unwrap(), folder);
    let told = error.full_message();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{told}");
    assert!(told.contains("nowhere"), "{told}");
}
