use super::*;

fn rules(json: &str) -> Result<DeviceRules, DeviceError> {
    let list: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
    DeviceRules::new(&list)
}

/// Returns the kernel's answer to an access: the result of the program.
fn answer(rules: &DeviceRules, block: bool, major: u32, minor: u32, access: u8) -> bool {
    let kind = if block { BLOCK } else { CHARACTER };
    let context = [kind.cast_unsigned() | u32::from(access) << 16, major, minor];
    let program = rules.program();
    Instruction::interpret(&program, &context) == 1
}

/// The list that containerd writes for every container denies all devices except those of every container.
#[test]
fn default_list() {
    let rules = rules(r#"[{"allow":false,"access":"rwm"}]"#).unwrap();
    assert_eq!(rules, DeviceRules::new(&[]).unwrap());
    for (major, minor, access, allowed) in [
        (1, 3, READ | WRITE, true),
        (1, 9, READ, true),
        (136, 17, READ | WRITE, true),
        (5, 1, READ, false),
        (5, 1, MKNOD, true),
        (1, 1, READ, false),
        (10, 229, READ | WRITE, false),
    ] {
        assert_eq!(answer(&rules, false, major, minor, access), allowed, "c {major}:{minor} {access}");
    }
    assert!(!answer(&rules, true, 8, 0, READ) && !answer(&rules, true, 8, 0, READ | MKNOD));
    assert!(answer(&rules, true, 8, 0, MKNOD));
    // A number of a character device means another device for block devices.
    assert!(!answer(&rules, true, 1, 3, READ));
}

/// A rule adds its access to its devices alone; a later rule removes it.
#[test]
fn exceptions() {
    let list = r#"[{"allow":false},{"allow":true,"type":"b","major":7,"minor":0,"access":"r"},
        {"allow":true,"type":"c","major":10,"access":"rwm"},{"allow":true,"type":"c","major":4,"minor":64,"access":"rw"},
        {"allow":false,"type":"c","major":4,"minor":64,"access":"w"}]"#;
    let rules = rules(list).unwrap();
    assert!(answer(&rules, true, 7, 0, READ));
    assert!(!answer(&rules, true, 7, 0, READ | WRITE) && !answer(&rules, true, 7, 1, READ));
    assert!(answer(&rules, false, 10, 229, READ | WRITE | MKNOD));
    assert!(answer(&rules, false, 4, 64, READ) && !answer(&rules, false, 4, 64, WRITE));
}

/// A list that allows by default denies the devices that it names, even if only a part of a request is denied.
#[test]
fn open_lists() {
    let rules = rules(r#"[{"allow":true},{"allow":false,"type":"b","major":8,"access":"w"}]"#).unwrap();
    assert!(answer(&rules, true, 8, 0, READ) && answer(&rules, true, 9, 0, WRITE));
    assert!(!answer(&rules, true, 8, 0, WRITE) && !answer(&rules, true, 8, 3, READ | WRITE));
    assert!(rules.allowances().is_none());
}

/// A list that cgroup v1 would obey only in part is refused, and so is a malformed one.
#[test]
fn refused_lists() {
    let hole = r#"[{"allow":false},{"allow":true,"type":"c","major":4,"access":"rw"},
        {"allow":false,"type":"c","major":4,"minor":1,"access":"w"}]"#;
    assert!(matches!(rules(hole), Err(DeviceError::Hole { .. })));
    let access = r#"[{"allow":true,"type":"c","major":4,"access":"rx"}]"#;
    assert!(matches!(rules(access), Err(DeviceError::Access { .. })));
    let number = r#"[{"allow":true,"type":"c","major":4294967299,"access":"r"}]"#;
    assert!(matches!(rules(number), Err(DeviceError::Number { .. })));
    let kind = r#"[{"allow":true,"type":"p","access":"r"}]"#;
    assert!(matches!(rules(kind), Err(DeviceError::Kind { .. })));
}

/// systemd gets the devices with their allowed access.
#[test]
fn allowances() {
    let rules = rules(r#"[{"allow":false},{"allow":true,"type":"b","major":7,"minor":0,"access":"r"}]"#).unwrap();
    let list: Vec<_> = rules.allowances().unwrap().collect();
    assert_eq!(list.len(), 2 + ALWAYS.len() + 1);
    assert!(list.contains(&(Devices { block: true, major: Some(7), minor: Some(0) }, "r".to_owned())));
    assert!(list.contains(&(Devices { block: false, major: Some(136), minor: None }, "rwm".to_owned())));
}
