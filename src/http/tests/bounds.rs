//! Limits on the resources that one request may use, over a real socket.

use super::*;

#[tokio::test]
async fn the_decoded_body_counts_against_the_memory_limit() {
    let running = server(&[("settee", "max_json_memory", "1000000")]).await;
    within(async {
        let ask = |line: &'static str, body: String| async move {
            ask(running.address, line, &[ADMIN, JSON], body.as_bytes()).await.status
        };
        assert_eq!(ask("PUT /db", String::new()).await, 201);
        for (line, before, one, after, few, many) in [
            ("POST /db/_all_docs", "{\"keys\":[", "\"a\"", "]}", 200, 413),
            ("POST /db/_bulk_get", "{\"docs\":[", "0", "]}", 200, 413),
            ("POST /db/_bulk_docs", "{\"docs\":[", "{}", "]}", 201, 413),
            ("POST /db/_find", "{\"selector\":{\"a\":{\"$in\":[", "[]", "]}}}", 200, 413),
        ] {
            for (count, wanted) in [(20, few), (20_000, many), (20, few)] {
                let body = format!("{before}{}{after}", vec![one; count].join(","));
                assert_eq!(ask(line, body).await, wanted, "{line} with {count}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_number_of_queries_in_a_request_is_limited() {
    let running = server(&[]).await;
    within(async {
        ask(running.address, "PUT /db", &[ADMIN], b"").await;
        let body = format!("{{\"queries\":[{}]}}", vec!["{}"; 10_001].join(","));
        let reply = ask(running.address, "POST /db/_all_docs/queries", &[ADMIN, JSON], body.as_bytes()).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
    })
    .await;
}

#[tokio::test]
async fn documents_with_huge_numbers_or_deep_nesting_do_not_fail_queries() {
    let running = server(&[]).await;
    within(async {
        let ask = |line: &'static str, body: String| async move {
            ask(running.address, line, &[ADMIN, JSON], body.as_bytes()).await
        };
        ask("PUT /db", String::new()).await;
        let digits = "1".repeat(400);
        assert_eq!(ask("PUT /db/big", format!("{{\"a\":{digits},\"b\":1}}")).await.status, 201);
        let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(ask("PUT /db/deep", format!("{{\"a\":{nested},\"b\":1}}")).await.status, 201);
        assert_eq!(ask("PUT /db/plain", "{\"a\":1,\"b\":1}".into()).await.status, 201);
        for indexed in [false, true] {
            if indexed {
                assert_eq!(ask("POST /db/_index", "{\"index\":{\"fields\":[\"a\"]}}".into()).await.status, 200);
            }
            for (body, wanted) in [
                ("{\"selector\":{\"a\":{\"$gt\":0}},\"fields\":[\"_id\"]}", "big plain deep"),
                ("{\"selector\":{\"a\":{\"$gt\":5}},\"fields\":[\"_id\",\"a.b\"]}", "big deep"),
            ] {
                let reply = ask("POST /db/_find", body.into()).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                for id in ["big", "plain", "deep"] {
                    let there = reply.text().contains(&format!("\"_id\":\"{id}\""));
                    assert_eq!(there, wanted.contains(id), "{body}: {}", reply.text());
                }
            }
        }
        let reply = ask("POST /db/_find", "{\"selector\":{\"_id\":\"big\"},\"fields\":[\"a\"]}".into()).await;
        assert!(reply.text().contains(&digits), "numbers stay as they were written");
        let reply = ask("POST /db/_changes?filter=_selector", "{\"selector\":{\"b\":1}}".into()).await;
        assert_eq!(reply.text().matches("\"seq\"").count(), 3, "{}", reply.text());
    })
    .await;
}
