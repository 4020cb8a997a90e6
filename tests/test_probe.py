from conftest import *


def test_a(project, inputs, built, tmp_path):
    S="sft/automodel"; I=inputs.words
    def t(file, before, after, prog="launch", *w):
        old=(project.path/file).read_bytes() if (project.path/file).exists() else None
        w = w or ((S,*I,"--dry-run") if prog=="launch" else ("render","--check"))
        b=None
        try:
            if callable(before): before(project.path/file)
            elif before is None: project.write(file, after)
            else: project.edit(file,before,after)
            b=tree(tmp_path)
            d=getattr(project,prog)(*w)
            print("$",file,repr(after) if before is None else (before,after), "->",d.code,"\n   ",d.stdout[:150].replace(str(tmp_path),"T"),d.stderr.replace(str(tmp_path),"T"))
        except AssertionError as e:
            print("$ TRACEBACK", file, before, after, str(e)[-600:])
        finally:
            if old is None: (project.path/file).unlink()
            else: (project.path/file).write_bytes(old)
    st="launcher/steps/sft/automodel/step.yaml"; pr="launcher/profiles/docker.yaml"; m="images/matrix.yaml"; lk="versions.lock"; df="launcher/steps/sft/automodel/default.yaml"
    t(st,"library: automodel","libary: automodel"); t(st,"    optional: true","    optinal: true"); t(st,"max_steps: {type: int","max_steps: {tpye: int"); t(st,"shape: {nodes: 1","shape: {nodes: one"); t(st,"types: [chat_jsonl]","types: [chat_json]"); t(st,"program: automodel_finetune.py","prorgam: x"); t(st,"program: automodel_finetune.py","program: nothere.py"); t(st,"schema: 1","schema: 2"); t(st,"title:","title: x\ntitle:"); t(st,"title: Supervised","title: [Supervised"); t(st, "schema: 1","schema: 1\nid: x"); t(st,"title: Supervised fine-tuning with NeMo AutoModel\n",""); t(st,'">=0.5"','">=9"'); t(st,'">=0.5"','"abc"'); t(st,"file: base.yaml","file: bas.yaml"); t(st,"  - flavour: cpu\n    file: base.yaml\n",""); t(st,"library: automodel","library: automodle");t(st,"type: int, keys: [step_scheduler.max_steps]","type: integer, keys: [step_scheduler.max_steps]")
    t(st,"parameters:","parameters: 3\nx:"); t(st,None,""); t(st,None,"[1]"); t(st,None,"{[a, b]: c}"); t(st,None,"a: 1\n---\nb: 2"); t(st,None,"a: \x00"); t(st,lambda p:p.write_bytes(b"\xff\xfe\xff"),None); t(st,None,"? {a: b}\n: c");t(st,None,"a: !foo 1"); t(st,None,"a: &a [*a]"); t(st,None,"a: *x")
    t(pr,"flavour: auto","flavor: auto"); t(pr,"flavour: auto","flavour: gpu"); t(pr,"shm_size: 8g","shm_size: lots"); t(pr,"shm_size: 8g","shm_size: 8"); t(pr,"memlock: -1","memlock: unlimited"); t(pr,"memlock: -1","mmlock: -1"); t(pr,"network: host","network: host\nmounts: [{source: /x, target: /y, readonlyy: true}]"); t(pr,"network: host","network: host\nmounts: [{source: /nonexist, target: /slipway}]"); t(pr,"kind: docker","kind: slurm"); t(pr,"kind: docker\n",""); t(pr,"network: host","network: host\nenv: {A: 1}"); t(pr,"network: host","network: host\nenv: {'A B': x, HF_HOME: y}"); t(pr,"network: host","network: host\nname: x"); t(pr,"network: host","network: host\nnetwork: none"); t(pr,"network: host","network: host\nruns: ''"); t(pr,"network: host","network: host\nengine: unix:///nope"); t(pr,"network: host","network: host\nulimits: {}"); t(pr, "network: host","network: host\nhf_home: '~/x'");t(pr, "network: host","network: host\nshm_size: 0"); t(pr,"network: host","network: host\nmounts: [{source: relative, target: rel}]")
    t(m,"python: \"3.11\"","pyhton: \"3.11\"","images"); t(m,"title:","titel:","images"); t(m,"suite: bookworm","siute: bookworm","images"); t(m,"default: {cpu: 0.7.0","default: {cpu: 0.7.1","images"); t(m,"default: {cpu: 0.7.0","default: {gpu: 0.7.0","images"); t(m,"packages: [torch==2.13.0+cpu]","packages: torch","images"); t(m,"tag: 26.08.00","tag: 26.09","images"); t(m,"tag: 26.08.00","tag: 26.09"); t(m,"26.08.00:\n","26.08:\n","images"); t(m,"schema: 1","schema: 1\nschema: 1","images"); t(m,"bootstrap: debian-12}","bootstrap: debian-13}","images","lock"); t(m,"groups: [torch, automodel]","groups: [torch, automodle]","images","lock"); t(m,"main: {python","mian: {python","images","lock"); t(m,"base: {bootstrap: debian-12}","base: {}","images","lock"); t(m,"base: {bootstrap: debian-12}","base: {bootstrap: debian-12, image: x}","images","lock"); t(m,"notes: [W","noets: [W","images"); t(m,"torch: # changes","torch: # cha\n            pckages: []\n            #","images")
    t(lk,"schema: 1","schema: 2","images"); t(lk,"release: 0.7.0","relaese: 0.7.0","images"); t(lk,"matrix: 6","matrix: 7","images"); t(lk,"matrix: 6","matrix: 7"); t(lk,None,"","images"); t(lk,"suite: bookworm","suite: bookworm\n        suite: x","images"); t(lk,"flavour: cpu","flavour: gpu","images"); t(lk,"flavour: cpu","flavour: cpu\n    extra: 1")
    t(lk,"torch: 2.13.0+cpu","torch: 2.13.1+cpu","images"); t(lk,None,"","images","lock","automodle")
    t(df,"seed: 42","sede: 42"); t(df,"seed: 42","seed: 42\nseed: 43"); t(df,None,"[1]"); t(df,None,""); t(df,"seed: 42","checkpoint: {checkpoint_dir: /x}\nseed: 42")
    o="o.yaml"; C=(S,*I,"-c","o.yaml","--dry-run")
    for text in ("seed: .nan","seed: .inf","seed: 2020-01-01","1: 2","optimizer: {1: 2, a: 3}","optimizer: {1: 2}","model: {pretrained_model_name_or_path: x}","optimizer: !!set {a, b}","optimizer: !!binary aGVsbG8=","sead: 1","seed: 1\nseed: 2","a: [","", "- 1", "optimizer: {lr: 1e-5}","true: 1", "optimizer: &a {x: *a}"):
        t(o,None,text,"launch",*C)
    t("images/automodel/0.7.0-cpu/requirements-torch.txt","torch","trch","images","build","automodel","--flavour","cpu")
    t("images/automodel/0.7.0-cpu/Dockerfile","FROM","FORM","images")
    (project.path/"x.yaml").mkdir()
    d=project.launch(S,*I,"-c","x.yaml"); print(d)
    for w in (("build","automodle"),("build","automodel","--release","26.07"),("build","automodel","--release","26.06"),("build","automodel","--base","x"),("build","automodel","--base","a=b"),("build","automodel","--base","=b"),("build","automodel","--base","a="),("build","automodel","--flavour","cpu","--base","a=b"),("build","automodel","--flavour","gpu"),("run","automodel","--flavour","cpu"),("run","automodel","x"),("lock","automodle"),("engine","status"),("rendr",)):
        try:
            print(w, project.images(*w))
        except AssertionError as e: print("TRACE",w,str(e)[-500:])
    assert 0
