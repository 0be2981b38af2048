use super::*;
use crate::cli::args::Command;
use crate::config::tls::{Certificate, Tls};

fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    Command::read(
        std::iter::once("settee").chain(arguments.iter().copied()).map(str::to_owned),
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Start {
    match read(arguments, environment) {
        Command::Serve(start) => *start,
        other => panic!("{other:?}"),
    }
}

fn refusal(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    match read(arguments, environment) {
        Command::Say { text, code } => {
            assert_ne!(code, 0);
            text
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_arguments_the_server_starts_with_defaults() {
    for arguments in [&[][..], &["serve"][..]] {
        let start = start(arguments, &[]);
        assert_eq!((start.data.as_path(), start.bind, start.store), (Path::new("./data"), None, None));
        assert!(start.admins.is_empty());
    }
}

#[test]
fn later_sources_override_earlier_ones() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settee.toml");
    std::fs::write(
        &file,
        "data = \"from-file\"\nlog = \"warn\"\nstore = \"memory\"\n[cors]\norigins = [\"http://a\", \"http://b\"]\n[admins]\nann = \"one\"\n",
    )
    .unwrap();
    let start = start(
        &["serve", "--config", file.to_str().unwrap(), "--data", "from-flag", "--set", "chttpd/enable_cors=false"],
        &[
            ("SETTEE_DATA", "from-environment"),
            ("SETTEE_LOG", "debug"),
            ("SETTEE_COUCHDB__MAX_DOCUMENT_SIZE", "1000"),
            ("COUCHDB_USER", "ben"),
            ("COUCHDB_PASSWORD", "two"),
        ],
    );
    assert_eq!(start.data, Path::new("from-flag"));
    assert_eq!((start.log.as_str(), start.store.as_deref()), ("debug", Some("memory")));
    assert_eq!(start.admins, [("ann".into(), "one".into()), ("ben".into(), "two".into())]);
    let source = |section: &str, key: &str| start.sources.get(&(section.to_owned(), key.to_owned())).copied();
    for (section, key, of) in [
        ("cors", "origins", Some(Source::File)),
        ("settee", "log", Some(Source::Environment)),
        ("couchdb", "max_document_size", Some(Source::Environment)),
        ("settee", "data", Some(Source::Argument)),
        ("chttpd", "enable_cors", Some(Source::Argument)),
        ("chttpd", "port", None),
    ] {
        assert_eq!(source(section, key), of, "{section}/{key}");
    }
    let settings = Settings::new(start.base).unwrap();
    assert_eq!(settings.cors.origins, ["http://a", "http://b"]);
    assert_eq!(settings.max_document_size, 1000);
    assert!(!settings.cors.enabled && !settings.has_admins());
}

#[test]
fn an_invalid_setting_is_rejected_with_a_hint() {
    for (arguments, environment, says) in [
        (&["--bind", "5984"][..], &[][..], "is not ADDRESS:PORT"),
        (&["--store", "tape"][..], &[][..], "one of: sled, redb, memory"),
        (&["--set", "chttpd/enable_corz=true"][..], &[][..], "did you mean chttpd/enable_cors?"),
        (&["--set", "couchdb/enable_cors=true"][..], &[][..], "did you mean chttpd/enable_cors?"),
        (&["--admin", "alice"][..], &[][..], "NAME:PASSWORD"),
        (&["--nonsense"][..], &[][..], "--help"),
        (&[][..], &[("COUCHDB_USER", "ann")][..], "COUCHDB_PASSWORD is not"),
        (&[][..], &[("SETTEE_CORS__ORIGNS", "x")][..], "did you mean cors/origins?"),
        (&["--tls-cert", "cert.pem"][..], &[][..], "--tls-key"),
        (&["--set", "ssl/enable=true"][..], &[][..], "cert_file is not set"),
        (&[][..], &[("SETTEE_SSL__CERT_FILE", "cert.pem")][..], "key_file is not set"),
        (&["--tls-bind", "6984"][..], &[][..], "is not ADDRESS:PORT"),
        (&["--set", "ssl/acme_domains=a.example"][..], &[][..], "acme_agree is not true"),
        (&["--tls-cert", "c", "--tls-key", "k"][..], &[("SETTEE_SSL__ACME_DOMAINS", "a")][..], "set only one"),
        (&["--tls-cert", "c", "--tls-key", "k", "--bind", "127.0.0.1:6984"][..], &[][..], "choose another port"),
        (&["--config", "/nowhere/settee.toml"][..], &[][..], "cannot be read"),
    ] {
        let text = refusal(arguments, environment);
        assert!(text.contains(says), "{arguments:?} {environment:?}: {text}");
    }
}

#[test]
fn tls_is_enabled_when_certificate_and_key_files_are_set() {
    let tls = |arguments: &[&str], environment: &[(&str, &str)]| {
        let start = start(arguments, environment);
        tls_of(&Settings::new(start.base).unwrap(), start.bind.unwrap_or(DEFAULT_BIND)).unwrap()
    };
    assert_eq!(tls(&[], &[]), None);
    let files = [("SETTEE_SSL__CERT_FILE", "cert.pem"), ("SETTEE_SSL__KEY_FILE", "key.pem")];
    for (arguments, bind) in [
        (&[][..], "127.0.0.1:6984"),
        (&["--bind", "[::1]:5984"][..], "[::1]:6984"),
        (&["--tls-bind", "0.0.0.0:443"][..], "0.0.0.0:443"),
        (&["--set", "ssl/port=8443", "--set", "ssl/bind_address=any"][..], "0.0.0.0:8443"),
    ] {
        let (cert, key) = (PathBuf::from("cert.pem"), PathBuf::from("key.pem"));
        let certificate = Certificate::Files { cert, key };
        assert_eq!(tls(arguments, &files), Some(Tls { bind: bind.parse().unwrap(), certificate }));
    }
    assert_eq!(tls(&["--set", "ssl/enable=false"], &files), None);
}

#[test]
fn help_lists_the_sources_of_settings() {
    let Command::Say { text, code } = read(&["--help"], &[]) else { panic!() };
    assert_eq!(code, 0);
    for word in ["--data", "--bind", "COUCHDB_USER", "SETTEE_BIND", "TOML", "docs/configuration.md"] {
        assert!(text.contains(word), "{word}");
    }
}

#[test]
fn the_encryption_key_never_appears_in_settings_or_debug_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let key = Key::generate();
    key.write_new(Path::new(&path("key"))).unwrap();
    std::fs::write(path("toml"), format!("encryption_key_file = {:?}", path("key"))).unwrap();
    let text = key.text().to_string();
    for (arguments, environment) in [
        (&["--encryption-key-file", &path("key")][..], &[][..]),
        (&["--config", &path("toml")][..], &[][..]),
        (&[][..], &[("SETTEE_ENCRYPTION_KEY_FILE", path("key").as_str())][..]),
        (&[][..], &[("SETTEE_ENCRYPTION_KEY", text.as_str())][..]),
    ] {
        let start = start(arguments, environment);
        assert_eq!(start.key, Some(key.clone()));
        assert!(start.warnings.is_empty(), "{:?}", start.warnings);
        let shown = format!("{start:?} {:?}", start.base);
        assert!(!shown.contains(&text) && !shown.contains(&path("key")), "{shown}");
    }
    let wrong = refusal(&[], &[("SETTEE_ENCRYPTION_KEY", "hunter2")]);
    assert!(wrong.contains("make-key") && !wrong.contains("hunter2"), "{wrong}");
    let Command::Upkeep(work) = read(&["compact-store", "--to-key-file", &path("key")], &[]) else { panic!() };
    let shown = format!("{work:?}");
    assert!(shown.contains(&key.id()) && !shown.contains(&text), "{shown}");
    refusal(&["compact-store", "--to-plaintext", "--to-key-file", &path("key")], &[]);
}

#[test]
fn environment_variables_set_by_kubernetes_only_cause_a_warning() {
    let start = start(&[], &[("SETTEE_PORT_5984_TCP", "tcp://10.0.0.1:5984")]);
    assert_eq!(start.warnings.len(), 1);
}

#[test]
fn an_address_may_be_given_without_a_port_and_a_port_without_an_address() {
    for (text, bind) in [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("0.0.0.0", "0.0.0.0:5984"),
        ("localhost", "127.0.0.1:5984"),
        ("localhost:1", "127.0.0.1:1"),
        (":7073", "0.0.0.0:7073"),
        ("[::1]", "[::1]:5984"),
        ("::", "[::]:5984"),
        ("[::]:1", "[::]:1"),
    ] {
        assert_eq!(start(&["--bind", text], &[]).bind, Some(bind.parse().unwrap()), "{text}");
    }
    for text in ["5984", "example.com:5984", "::1:5984", "1.2.3", ":", "[::1]x", ""] {
        assert!(refusal(&["--bind", text], &[]).contains("is not ADDRESS:PORT"), "{text}");
    }
    let tls = start(&["--tls-cert", "c", "--tls-key", "k", "--tls-bind", "0.0.0.0"], &[]);
    assert_eq!((&*tls.base["ssl"]["bind_address"], &*tls.base["ssl"]["port"]), ("0.0.0.0", "6984"));
}

#[test]
fn the_port_of_a_host_is_used_where_no_port_is_given() {
    let port = ("PORT", "8080");
    for (arguments, environment, bind) in [
        (&[][..], &[port][..], Some("0.0.0.0:8080")),
        (&["--bind", "127.0.0.1"], &[port], Some("127.0.0.1:8080")),
        (&[], &[port, ("SETTEE_BIND", "[::]")], Some("[::]:8080")),
        (&["--bind", "127.0.0.1:1"], &[port], Some("127.0.0.1:1")),
        (&["--set", "chttpd/port=1"], &[port], Some("127.0.0.1:1")),
        (&[], &[("PORT", "tcp://10.0.0.1:80")], None),
        (&[], &[("PORT", "")], None),
    ] {
        let start = start(arguments, environment);
        assert_eq!(start.bind, bind.map(|bind| bind.parse().unwrap()), "{arguments:?} {environment:?}");
    }
    assert!(start(&[], &[port]).warnings[0].contains("because the environment variable PORT is set"));
    assert!(start(&[], &[("PORT", "http")]).warnings[0].contains("`http` is not a port"));
}

#[test]
fn a_word_that_is_no_log_level_is_refused() {
    for text in ["info", "DEBUG", "off", "info,settee::request=off", "warn, settee=trace", "settee[span{field=x}]=info"]
    {
        assert_eq!(start(&["--log", text], &[]).log, text);
    }
    for text in ["verbose", "info,verbose", "settee::request", "settee=loud"] {
        assert!(refusal(&["--log", text], &[]).contains("is none of off, error, warn, info, debug, trace"), "{text}");
    }
}

#[test]
fn a_settings_file_of_couchdb_is_recognized() {
    let mut table = Table::new();
    let wrong = read_text("[chttpd]\nbind_address = 0.0.0.0\n", "local.ini", &mut table).unwrap_err();
    assert!(wrong.contains("settee config import local.ini"), "{wrong}");
    let wrong = read_text("bind = 0.0.0.0\n", "settee.toml", &mut table).unwrap_err();
    assert!(wrong.contains("is not TOML"), "{wrong}");
}

#[test]
fn health_asks_the_port_of_the_host() {
    for (arguments, environment, at) in [
        (&["health"][..], &[][..], "127.0.0.1:5984"),
        (&["health"], &[("PORT", "8080")], "127.0.0.1:8080"),
        (&["health", "--at", "127.0.0.1:1"], &[("PORT", "8080")], "127.0.0.1:1"),
    ] {
        let Command::Health { at: found, .. } = read(arguments, environment) else { panic!("{arguments:?}") };
        assert_eq!(found, at);
    }
}

#[test]
fn the_commands_of_an_admin_hide_passwords() {
    let url = "https://ann:hush@sync.example.com";
    let shown = format!("{:?}", read(&["livesync", "--user", "ann", "--server", url], &[]));
    assert!(shown.contains("notes-ann") && shown.contains("sync.example.com") && !shown.contains("hush"), "{shown}");
    let shown = format!("{:?}", read(&["livesync", "--doctor", url, "--apply"], &[]));
    assert!(shown.contains("Doctor") && shown.contains("apply: true") && !shown.contains("hush"), "{shown}");
    assert!(format!("{:?}", read(&["livesync", "--doctor"], &[])).contains("Folder"));
    for wrong in [&["livesync"][..], &["livesync", "--apply", "--user", "a"], &["admin", "a:b"], &["admin"]] {
        refusal(wrong, &[]);
    }
}
