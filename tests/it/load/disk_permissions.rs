//! Files on disk: links that leave the plugin's folder, files writable by others, and private
//! copies.

use std::fs;

use hotbay::{ErrorKind, Host, Request};
use hotbay_tests::{Plugins, block_on, host, library, library_file_name, loaded, refused, unique};
use tempfile::TempDir;

#[test]
fn library_name_leaving_folder_is_refused() {
    let plugins = Plugins::new();
    for stem in ["../outside/faulty", "..", "sub/faulty", "/faulty"] {
        let folder = plugins.add("outside", "faulty").set("library", stem);
        let error = refused(&host(&plugins), folder.write());
        let kinds = [ErrorKind::Manifest, ErrorKind::Integrity];
        let message = error.full_message();
        assert!(kinds.contains(&error.kind()), "{stem}: {message}");
        assert!(message.contains("library") || message.contains(stem), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn symlink_leaving_folder_is_refused_inner_one_is_not() {
    let plugins = Plugins::new();
    let host = host(&plugins);
    let folder = plugins.add("linking", "faulty").write();
    let name = library_file_name("faulty");
    let inside = folder.join("real");
    fs::rename(folder.join(&name), &inside).unwrap();

    std::os::unix::fs::symlink(library("faulty"), folder.join(&name)).unwrap();
    let error = refused(&host, &folder);
    let message = error.full_message();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{message}");
    assert!(message.contains("links to") && message.contains(&name), "{message}");

    fs::remove_file(folder.join(&name)).unwrap();
    std::os::unix::fs::symlink("real", folder.join(&name)).unwrap();
    let linking = loaded(&host, &folder);
    assert_eq!(linking.call(Request::text("hi")).unwrap().as_bytes(), b"hi");
}

#[cfg(unix)]
#[test]
fn writable_by_others_is_refused_unless_allowed() {
    use std::os::unix::fs::PermissionsExt;
    let library = library_file_name("faulty");
    for (corrupted, mode) in [("", 0o777), ("plugin.json", 0o666), (&library, 0o664)] {
        let plugins = Plugins::new();
        let folder = plugins.add("open", "faulty").write();
        let path = folder.join(corrupted);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();

        let error = refused(&host(&plugins), &folder);
        let message = format!("{error:?}");
        assert_eq!(error.kind(), ErrorKind::Integrity, "{message}");
        assert!(message.contains("chmod go-w"), "{message}");
        let report = block_on(host(&plugins).load_all());
        assert_eq!((report.loaded.len(), report.refused.len()), (0, 1));

        let trusting = Host::builder().allow_writable_by_others(true);
        loaded(&trusting.build().unwrap(), &folder);
    }
}

#[cfg(unix)]
#[test]
fn plugin_under_writable_folder_is_skipped() {
    use std::os::unix::fs::PermissionsExt;
    let plugins = Plugins::new();
    plugins.add("below", "faulty").write();
    fs::set_permissions(plugins.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let report = block_on(host(&plugins).load_all());
    assert_eq!((report.loaded.len(), report.refused.len()), (0, 1));
    let message = report.refused[0].error.full_message();
    assert!(message.contains("was skipped"), "{message}");
}

#[test]
fn library_is_never_mapped_in_place() {
    let (plugins, staging) = (Plugins::new(), TempDir::new().unwrap());
    let folder = plugins.add(&unique("moved"), "faulty").write();
    let builder = Host::builder().staging_dir(staging.path());
    let host = builder.build().unwrap();
    let moved = loaded(&host, &folder);
    assert_eq!(hotbay_tests::mappings(&folder.display().to_string()), 0);
    // Overwrites it in place, which would crash a process that had mapped it.
    fs::write(folder.join(library_file_name("faulty")), [0; 4096]).unwrap();
    assert_eq!(moved.call(Request::text("hi")).unwrap().as_bytes(), b"hi");
    drop((host, moved));
    assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0);
}

#[test]
fn missing_staging_folder_fails_load_only() {
    let plugins = Plugins::new();
    let folder = plugins.add("unstaged", "faulty").write();
    let builder = Host::builder().staging_dir(plugins.dir().join("nowhere"));
    let error = refused(&builder.build().unwrap(), folder);
    let message = error.full_message();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{message}");
    assert!(message.contains("nowhere"), "{message}");
}
