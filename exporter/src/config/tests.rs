use super::*;

fn parse(line: &str, variables: &[(&str, &str)]) -> Result<Command, Invalid> {
    let variable = |name: &str| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    Command::parse(line.split_whitespace(), variable, "1.2.3")
}

fn config_of(line: &str, variables: &[(&str, &str)]) -> Config {
    match parse(line, variables) {
        Ok(Command::Run(config)) => *config,
        other => panic!("{line:?} {variables:?}: {other:?}"),
    }
}

fn refused(line: &str, variables: &[(&str, &str)]) -> String {
    match parse(line, variables) {
        Err(Invalid(line)) => {
            assert!(!line.contains('\n') && !line.is_empty(), "{line:?}");
            line
        }
        other => panic!("{line:?} {variables:?}: {other:?}"),
    }
}

#[test]
fn without_flags_everything_has_a_default() {
    let config = config_of("", &[]);
    assert_eq!(config.listen, ["[::]:8889".parse().unwrap()]);
    assert!(config.listen_is_default && config.ports.is_none() && config.interfaces.is_empty());
    assert_eq!(config.source, Method::Auto);
    assert_eq!(config.tables.flows, 24_576);
    assert_eq!(config.tables.ssrcs_per_flow, 1_024);
    assert_eq!(config.stats_interval, Some(Duration::from_secs(15)));
    assert_eq!(config.privacy.mode, Deidentify::None);
    assert_eq!((config.privacy.ipv4_prefix, config.privacy.ipv6_prefix), (24, 48));
    assert!(!config.numeric && !config.quiet && !config.check && config.jitter);
    assert_eq!(config.log, Log::Levels(Levels::default()));
}

#[test]
fn listening_address_and_port() {
    let check = |line: &str, variables: &[(&str, &str)], expected: &str| {
        let listen = config_of(line, variables).listen;
        let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen.join(" "), expected, "{line}");
    };
    check("", &[("PROM_PORT", "9000")], "[::]:9000");
    check("", &[("PROM_PORT", "")], "[::]:8889");
    check("--port 9001", &[("PROM_PORT", "9000")], "[::]:9001");
    check("--listen 127.0.0.1:9002", &[("PROM_PORT", "9000")], "127.0.0.1:9002");
    check("--listen 127.0.0.1", &[("PROM_PORT", "9000")], "127.0.0.1:9000");
    check("--listen ::1", &[], "[::1]:8889");
    check("--listen [::1]", &[], "[::1]:8889");
    check("--listen :9003", &[], "[::]:9003");
    check("--listen 127.0.0.1 --port 0", &[], "127.0.0.1:0");
    check("--listen 127.0.0.1:5 --port 5", &[], "127.0.0.1:5");
    check("--web.listen-address :1 --web.listen-address 127.0.0.1", &[], "[::]:1 127.0.0.1:8889");
}

#[test]
fn deidentification_from_flag_and_variable() {
    let check = |line: &str, variable: &str, expected: Deidentify| {
        let got = config_of(line, &[("PROM_DEIDENTIFY", variable)]).privacy.mode;
        assert_eq!(got, expected, "{line} {variable}");
    };
    check("", "", Deidentify::None);
    check("", "0", Deidentify::None);
    check("", "false", Deidentify::None);
    check("", "1", Deidentify::Truncate);
    check("", "true", Deidentify::Truncate);
    check("", "legacy", Deidentify::Legacy);
    check("", " drop ", Deidentify::Drop);
    check("--deidentify pseudonym", "1", Deidentify::Pseudonym);
    check("--deidentify none", "1", Deidentify::None);
    check("--deidentify", "drop", Deidentify::Truncate);
}

#[test]
fn switches_from_flag_and_variable() {
    let check = |line: &str, variables: &[(&str, &str)], expected: (bool, bool)| {
        let config = config_of(line, variables);
        assert_eq!((config.numeric, config.quiet), expected, "{line} {variables:?}");
    };
    check("--numeric", &[], (true, false));
    check("--quiet=yes", &[], (false, true));
    check("", &[("PROM_NUMERIC", "1"), ("PROM_QUIET", "TRUE")], (true, true));
    check("", &[("PROM_NUMERIC", "0"), ("PROM_QUIET", "")], (false, false));
    check("--numeric=0", &[("PROM_NUMERIC", "1")], (false, false));
}

#[test]
fn other_values() {
    let config = config_of(
        "--ports 40000-49999 --interface eth0 --interface ens* --source capture --observer /a \
         --observer /b --observer.stats-interval 0 --max-flows 1_000 --max-series 5 \
         --deidentify truncate --deidentify.ipv4-prefix 16 --log debug --config.check",
        &[("DEBUG", "*")],
    );
    assert_eq!(config.ports, Some(40_000..=49_999));
    assert_eq!(config.interfaces, ["eth0", "ens*"]);
    assert_eq!(config.source, Method::Capture);
    assert_eq!(config.observers.len(), 2);
    assert_eq!(config.stats_interval, None);
    assert_eq!((config.tables.flows, config.max_series), (1_000, 5));
    assert_eq!(config.privacy.ipv4_prefix, 16);
    assert_eq!((config.privacy.names, config.privacy.exempt.len()), (Names::None, 0));
    assert_eq!(config.log, Log::Directives("debug".into()));
    assert!(config.check);
    let line = "--names pseudonym --deidentify truncate --deidentify.key-file /k --deidentify.exempt 10.0.0.0/8 \
                --deidentify.exempt ::1";
    let privacy = config_of(line, &[]).privacy;
    assert_eq!(privacy.names, Names::Pseudonym);
    assert_eq!(privacy.exempt, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!((privacy.rotate, privacy.announced), (Rotate::Never, false));
    let privacy = config_of("--deidentify pseudonym --deidentify.rotate DAILY", &[]).privacy;
    assert_eq!(privacy.rotate, Rotate::Daily);
    let privacy = config_of("--deidentify --deidentify.announced --geo-db /g", &[]).privacy;
    assert!(privacy.announced);
    let config = config_of("--observer.stats-interval 500ms --debug -*", &[]);
    assert_eq!(config.stats_interval, Some(Duration::from_millis(500)));
    assert_eq!(config.log, Log::Levels(Levels::selected_by("-*")));
}

#[test]
fn bad_values_are_named_in_one_line() {
    let check = |line: &str, variables: &[(&str, &str)], expected: &[&str]| {
        let refusal = refused(line, variables);
        for part in expected {
            assert!(refusal.contains(part), "{refusal:?} lacks {part:?}");
        }
    };
    check("--ports 40000", &[], &["--ports", "`40000`", "40000-49999"]);
    check("--ports 5-4", &[], &["--ports", "`5-4`"]);
    check("--ports 0-4", &[], &["--ports"]);
    check("--ports 1-65536", &[], &["--ports"]);
    check("--port 70000", &[], &["--port:", "`70000`", "65535"]);
    check("", &[("PROM_PORT", "http")], &["PROM_PORT:", "`http`", "65535"]);
    check("--port 1 --listen [::]:2", &[], &["--port", "--web.listen-address"]);
    check("--listen nowhere", &[], &["--web.listen-address", "`nowhere`", "[::]:8889"]);
    check("--source pcap", &[], &["--source:", "`pcap`", "auto", "ebpf", "capture", "none"]);
    check("--deidentify hash", &[], &["--deidentify:", "`hash`", "truncate"]);
    check("", &[("PROM_DEIDENTIFY", "2")], &["PROM_DEIDENTIFY:", "`2`", "pseudonym"]);
    check("", &[("PROM_NUMERIC", "maybe")], &["PROM_NUMERIC:", "`maybe`", "true"]);
    check("", &[("PROM_QUIET", "2\nx")], &["PROM_QUIET:", "true"]);
    check("--jitter=perhaps", &[], &["--jitter:", "`perhaps`"]);
    check("--numeric=perhaps", &[], &["--numeric:", "`perhaps`"]);
    check("--deidentify.ipv4-prefix 32", &[], &["--deidentify.ipv4-prefix:", "`32`", "31"]);
    check("--deidentify.ipv6-prefix 128", &[], &["--deidentify.ipv6-prefix:", "`128`", "127"]);
    check("--deidentify.ipv6-prefix -1", &[], &["-1"]);
    check("--deidentify.key-file /k", &[], &["--deidentify.key-file", "pseudonym"]);
    check("--deidentify.rotate daily", &[], &["--deidentify.rotate", "--names pseudonym"]);
    check("--names pseudonym --deidentify.rotate 5d", &[], &["--deidentify.rotate:", "weekly"]);
    check("--deidentify --deidentify.announced", &[], &["--deidentify.announced", "--geo-db"]);
    check("--deidentify.announced --geo-db /g", &[], &["--deidentify.announced", "truncate"]);
    check(
        "--deidentify --deidentify.exempt lan",
        &[],
        &["--deidentify.exempt:", "`lan`", "198.51.100.0/24"],
    );
    check("--deidentify.exempt 10.0.0.0/8", &[], &["--deidentify.exempt", "--deidentify"]);
    check("--max-flows 0", &[], &["--max-flows:", "`0`", "from 1"]);
    check("--max-flows many", &[], &["--max-flows:", "`many`"]);
    check("--max-series 1e9", &[], &["--max-series:", "`1e9`"]);
    check("--observer.stats-interval soon", &[], &["--observer.stats-interval:", "`soon`", "15s"]);
    check("--observer.stats-interval 1.2.3s", &[], &["--observer.stats-interval:"]);
    check("--observer.max-requests-per-second 0", &[], &["--observer.max-requests-per-second:"]);
    check("--interface [", &[], &["--interface:", "`[`"]);
    check("--interface lo,eth0", &[], &["--interface:", "`lo,eth0`", "once for each"]);
    check("--log a=b=c", &[], &["--log.level:", "`a=b=c`", "debug"]);
    check("--nonsense", &[], &["--nonsense", "--help"]);
    check("--interfaces eth0", &[], &["--interfaces", "--interface"]);
    check("--ports", &[], &["--ports", "value"]);
    check("--ports 1-2 --ports 3-4", &[], &["--ports", "once"]);
    check("surplus", &[], &["surplus"]);
    check("--completions tcsh", &[], &["--completions:", "`tcsh`", "bash"]);
}

#[test]
fn texts_to_print() {
    let printed = |line: &str| match parse(line, &[]) {
        Ok(Command::Print(text)) => text,
        other => panic!("{line:?}: {other:?}"),
    };
    assert_eq!(printed("--version").trim(), "mediasoup-exporter 1.2.3");
    for variable in ["PROM_PORT", "PROM_DEIDENTIFY", "PROM_NUMERIC", "PROM_QUIET", "DEBUG"] {
        assert!(printed("--help").contains(variable), "{variable} is not in --help");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(printed(&format!("--completions {shell}")).contains("max-flows"), "{shell}");
    }
    assert_eq!(parse("--print-agent", &[]), Ok(Command::PrintAgent));
    assert_eq!(parse("--print-metrics-reference", &[]), Ok(Command::PrintMetricsReference));
}

#[test]
fn verdicts_have_thresholds() {
    let config = config_of(
        "--verdict.loss 3.5% --verdict.jitter 80ms --verdict.silence 1m --verdict.score 4",
        &[],
    );
    let expected = Bad {
        loss: 0.035,
        jitter: Duration::from_millis(80),
        silence: Duration::from_secs(60),
        score: 4,
    };
    assert_eq!(config.bad, expected);
    for line in
        ["--verdict.loss 0", "--verdict.loss 101%", "--verdict.loss much", "--verdict.score 11"]
    {
        let flag = line.split(' ').next().unwrap();
        assert!(refused(line, &[]).contains(flag), "{line}");
    }
    assert_eq!(config_of("--web.views=no", &[]).history, None);
    assert_eq!(config_of("--history.memory 10", &[]).history, Some(10_000_000));
    assert!(refused("--history.memory 0", &[]).contains("--history.memory"));
}

#[test]
fn top_has_flags_of_its_own() {
    let Ok(Command::Top(top)) = parse("top --by ip --once -country:DE net:192.0.2.0/24", &[])
    else {
        panic!("it is a command");
    };
    let shown = (&*top.by, &*top.filter, &*top.exporter.url, top.once, top.json);
    let url = "http://localhost:8889";
    assert_eq!(shown, ("ip", "-country:DE net:192.0.2.0/24", url, true, false));
    assert!(refused("top --by moon", &[]).contains("--by"));
    assert!(refused("--port 1 top", &[]).contains("COMMAND"));
    let Ok(Command::Explain(explain)) = parse("explain --for 1h Ada Lovelace", &[]) else {
        panic!("it is a command");
    };
    assert_eq!((&*explain.what, &*explain.span), ("Ada Lovelace", "1h"));
    assert!(refused("explain", &[]).contains("<WHAT>"));
    let Ok(Command::Check(check)) = parse("check --ports 40000-40100 --strict", &[]) else {
        panic!("it is a command");
    };
    assert!(check.ports == Some(40_000..=40_100) && check.strict && !check.json);
    assert!(refused("check --ports none", &[]).contains("--ports"));
}
