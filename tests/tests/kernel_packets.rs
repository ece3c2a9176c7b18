use exporter_tests::prog::*;
#[test]
fn loads() {
    if !exporter_tests::root_or_skip() {
        return;
    }
    match Program::load(&Constants::default()) {
        Ok(_) => {}
        Err(e) => {
            let s = format!("{e:?}");
            let n = s.len();
            println!("{}\n....\n{}", &s[..n.min(3000)], &s[n.saturating_sub(6000)..]);
            panic!()
        }
    }
}
