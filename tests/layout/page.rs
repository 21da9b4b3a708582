//! `docs/layout.md` as tables.

use std::collections::BTreeMap;

/// The tables of the page, by the heading that they stand under.
pub struct Page(BTreeMap<String, Table>);

/// Rows of cells, without the head.
pub type Table = Vec<Vec<String>>;

/// A row of a table of offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub offset: usize,
    pub size: usize,
}

impl Page {
    pub fn read() -> Self {
        let mut tables = BTreeMap::<String, Table>::new();
        let (mut heading, mut lines) = ("", include_str!("../../docs/layout.md").lines().peekable());
        while let Some(line) = lines.next() {
            if let Some(title) = line.strip_prefix('#') {
                heading = title.trim_start_matches('#').trim();
            }
            if !line.starts_with('|') {
                continue;
            }
            let width = cells(line).len();
            let rule = lines.next().expect("a table has more than its head");
            assert!(rule.starts_with("|---"), "the head of a table is one line: {line}");
            let mut rows = Table::new();
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                assert_eq!(cells(row).len(), width, "{row}");
                rows.push(cells(row));
            }
            assert!(tables.insert(heading.to_owned(), rows).is_none(), "two tables under {heading}");
        }
        Self(tables)
    }

    pub fn headings(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    pub fn table(&self, heading: &str) -> &Table {
        self.0.get(heading).unwrap_or_else(|| panic!("no table under {heading}"))
    }

    /// A table of offsets, sizes and names, in order and without gaps, and its size. What is called padding is left out.
    pub fn fields(&self, heading: &str) -> (Vec<Field>, usize) {
        let mut end = 0;
        let mut fields = Vec::new();
        for row in self.table(heading) {
            let [offset, size, name, ..] = &row[..] else { panic!("{heading}: {row:?}") };
            let field = Field { name: name.clone(), offset: number(offset) as usize, size: number(size) as usize };
            assert_eq!(field.offset, end, "{heading}: a gap or an overlap before {name}");
            end = field.offset + field.size;
            fields.extend((name != "padding").then_some(field));
        }
        (fields, end)
    }

    /// A table of values and names.
    pub fn values(&self, heading: &str) -> Vec<(String, u64)> {
        self.table(heading).iter().map(|row| (row[1].clone(), number(&row[0]))).collect()
    }

    /// A table of bits and names: each name with its mask. The bits are in order and without gaps.
    pub fn masks(&self, heading: &str) -> Vec<(String, u64)> {
        let mut next = 0;
        let mask = |row: &Vec<String>| {
            let (from, to) = row[0].split_once('-').unwrap_or((&row[0], &row[0]));
            let (from, to) = (number(from), number(to));
            assert_eq!(from, next, "{heading}: a gap or an overlap before {}", row[1]);
            next = to + 1;
            (row[1].clone(), u64::MAX >> (63 - to) & u64::MAX << from)
        };
        self.table(heading).iter().map(mask).collect()
    }

    /// One field.
    pub fn field(&self, heading: &str, name: &str) -> Field {
        let (fields, _) = self.fields(heading);
        fields.into_iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{heading} has no {name}"))
    }

    /// One field's offset.
    pub fn at(&self, heading: &str, name: &str) -> usize {
        self.field(heading, name).offset
    }

    /// One value.
    pub fn value(&self, heading: &str, name: &str) -> u64 {
        let values = self.values(heading);
        values.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{heading} has no {name}")).1
    }

    /// Takes some bits out of a word.
    pub fn bits(&self, heading: &str, name: &str, word: u64) -> u64 {
        let mask = self.mask(heading, name);
        (word & mask) >> mask.trailing_zeros()
    }

    /// Puts a value in its place in a word.
    pub fn place(&self, heading: &str, name: &str, value: u64) -> u64 {
        let mask = self.mask(heading, name);
        let placed = value << mask.trailing_zeros();
        assert_eq!(placed & !mask, 0, "{heading}: {value} is no {name}");
        placed
    }

    fn mask(&self, heading: &str, name: &str) -> u64 {
        let masks = self.masks(heading);
        masks.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{heading} has no {name}")).1
    }
}

fn cells(row: &str) -> Vec<String> {
    row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// Decimal, or hexadecimal with `0x`.
pub fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("not a number: {text}"))
}
